package todevice

import "testing"

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"type":"m.room.encrypted","sender":"@a:x","content":{"algorithm":"m.olm.v1.curve25519-aes-sha2","sender_key":"k","ciphertext":{"c":{"type":0,"body":"b"}}}}`))
	f.Add([]byte(`{"type":"m.room_key.withheld","sender":"@a:x","content":{"code":"m.unverified"}}`))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		parseToDevice(raw)
	})
}
