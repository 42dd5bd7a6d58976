package todevice

import (
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
)

// The flag of a key that comes is kept with it (requirement 17.4). Its absence, and
// anything that is not true, mean that the key is not to be passed on; they do not make it
// useless (requirement 17.1).
func TestSharedHistoryOfReceivedKeys(t *testing.T) {
	t.Parallel()
	out, err := session.NewMegolmOutboundSession()
	if err != nil {
		t.Fatal(err)
	}
	exported, err := out.SessionSharingMessage()
	if err != nil {
		t.Fatal(err)
	}
	for more, want := range map[string]bool{
		``: false, `,"shared_history":true`: true, `,"shared_history":false`: false, `,"shared_history":"true"`: false,
		`,"shared_history":1`: false, `,"shared_history":null`: false, `,"shared_history":{}`: false,
		`,"org.matrix.msc3061.shared_history":true`: true, `,"org.matrix.msc3061.shared_history":"yes"`: false,
	} {
		b := &Incoming{}
		b.handleRoomKey(&olm.Received{Envelope: olm.Envelope{Content: json.RawMessage(
			`{"algorithm":"m.megolm.v1.aes-sha2","room_id":"!r:x","session_id":"` + out.ID().String() + `","session_key":"` + string(exported) + `"` + more + `}`,
		)}})
		if len(b.keys) != 1 {
			t.Errorf("%s: the key was refused", more)
			continue
		}
		row, err := megolm.Merge(b.keys[0], store.InboundSession{})
		if err != nil || row.SharedHistory != want {
			t.Errorf("%s: %v, %v", more, row.SharedHistory, err)
		}
	}
}
