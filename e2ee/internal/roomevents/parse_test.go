package roomevents

import (
	"encoding/json"
	"testing"
)

// What was redacted is an empty message to a client, not something that it cannot read; and
// nothing that the homeserver says in its place is shown.
func TestRedactedEventIsAnEmptyMessage(t *testing.T) {
	t.Parallel()
	const shown = `"event_id":"$e","sender":"@a:x","type":"m.room.message","content":{}`
	for _, tc := range []struct{ name, event, want string }{
		{
			"as servers redact", `{"event_id":"$e","sender":"@a:x","type":"m.room.encrypted","content":{},"unsigned":{"redacted_because":{"type":"m.room.redaction"}}}`,
			`{` + shown + `,"unsigned":{"redacted_because":{"type":"m.room.redaction"}}}`,
		},
		{"without a reason", `{"event_id":"$e","sender":"@a:x","type":"m.room.encrypted","content":{}}`, `{` + shown + `}`},
		{
			"with a relation that was kept", `{"event_id":"$e","sender":"@a:x","type":"m.room.encrypted","content":{"m.relates_to":{"rel_type":"m.thread","event_id":"$r"}},"redacted_because":{}}`,
			`{` + shown + `,"redacted_because":{}}`,
		},
		{
			"with a text of the server's", `{"event_id":"$e","sender":"@a:x","type":"m.room.encrypted","content":{"msgtype":"m.text","body":"forged"},"unsigned":{"redacted_because":{}}}`,
			`{` + shown + `,"unsigned":{"redacted_because":{}}}`,
		},
	} {
		job := parseEventJob(Incoming{RoomID: "!r:x", Event: json.RawMessage(tc.event)})
		if job == nil || job.Ciphertext != "" || job.Err != nil {
			t.Errorf("%s: it counts as encrypted: %+v", tc.name, job)
			continue
		}
		if got := string(job.event.Encode()); got != tc.want || job.Type != "m.room.message" {
			t.Errorf("%s: shown as %s %s, want %s", tc.name, job.Type, got, tc.want)
		}
	}
	// With a cipher text it is not redacted, whatever the server says.
	said := `{"event_id":"$e","sender":"@a:x","type":"m.room.encrypted","content":{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"AwA","session_id":"s"},"unsigned":{"redacted_because":{}}}`
	if job := parseEventJob(Incoming{RoomID: "!r:x", Event: json.RawMessage(said)}); job == nil || job.Ciphertext == "" {
		t.Errorf("what is still encrypted counts as redacted: %+v", job)
	}
}
