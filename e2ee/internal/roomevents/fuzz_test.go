package roomevents

import (
	"encoding/json"
	"testing"
)

func FuzzParseSealed(f *testing.F) {
	f.Add([]byte(`{"type":"m.room.encrypted","sender":"@a:x","event_id":"$e","origin_server_ts":1,"content":{"algorithm":"m.megolm.v1.aes-sha2","session_id":"s","ciphertext":"c"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		job := parseEventJob(Incoming{RoomID: "!r:x", Event: raw})
		if job == nil {
			return
		}
		if !json.Valid(job.event.Encode()) {
			t.Fatalf("%q became invalid", raw)
		}
	})
}
