package e2ee_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// Bad input: on a page of a room's history one event is broken. It is marked, and shown as it
// came where clients are shown what cannot be decrypted; the events around it are right. An event
// that two readers read in two ways is not shown at all (attack A26).
func TestOneBrokenEventOnAPage(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.Undecryptable = e2ee.UndecryptableEvent })
	room, bob, said := hear(t, st)
	event := func(body string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"type":"m.room.encrypted","event_id":"$%s","sender":"%s","origin_server_ts":1,"content":%s}`, body, bob.UserID, said.seal(said.text(body))))
	}
	long := "$" + strings.Repeat("x", 300)
	for name, broken := range map[string]struct{ event, code string }{
		"no sender":           {`{"type":"m.room.encrypted","event_id":"$b","content":{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"a","session_id":"b"}}`, "Malformed"},
		"a sender too long":   {`{"type":"m.room.encrypted","event_id":"$b","sender":"@` + long + `","content":{"ciphertext":"a"}}`, "Malformed"},
		"an ID too long":      {`{"type":"m.room.encrypted","event_id":"` + long + `","sender":"@a:b","content":{"ciphertext":"a"}}`, "Malformed"},
		"no cipher text":      {`{"type":"m.room.encrypted","event_id":"$b","sender":"@a:b","content":{"algorithm":"m.megolm.v1.aes-sha2"}}`, "Malformed"},
		"a content of text":   {`{"type":"m.room.encrypted","event_id":"$b","sender":"@a:b","content":"a"}`, "Malformed"},
		"another algorithm":   {`{"type":"m.room.encrypted","event_id":"$b","sender":"@a:b","content":{"algorithm":"x","ciphertext":"a","session_id":"b"}}`, "Malformed"},
		"in clear, no sender": {`{"type":"m.room.message","event_id":"$b","content":{"body":"forged"}}`, "SentInClear"},
		"an odd unsigned":     {`{"type":"m.room.message","event_id":"$b","sender":"@a:b","content":{"body":"forged"},"unsigned":[]}`, "SentInClear"},
		"two types":           {`{"type":"m.room.encrypted","event_id":"$b","sender":"@a:b","type":"m.room.message","content":{"body":"forged"}}`, ""},
		"no object":           {`"forged"`, ""},
	} {
		before, after := "before "+name, "after "+name
		in := []e2ee.Incoming{{Event: event(before)}, {Event: json.RawMessage(broken.event)}, {Event: event(after)}}
		for i := range in {
			in[i].RoomID = id.RoomID(room)
		}
		out, err := st.dev.Open(t.Context(), in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, body := range map[int]string{0: before, 2: after} {
			if ev := readShown(t, out[i].Event); !out[i].Decrypted || ev.Content.Body != body {
				t.Errorf("%s: %q is shown as %s", name, body, out[i].Event)
			}
		}
		if broken.code == "" {
			if out[1].Type != "" {
				t.Errorf("%s: it counts as %s: %s", name, out[1].Type, out[1].Event)
			}
			continue
		}
		var shown map[string]any
		if err := json.Unmarshal(out[1].Event, &shown); err != nil || codeOf(shown) != broken.code {
			t.Errorf("%s: shown as %s", name, out[1].Event)
		}
		for _, part := range []string{"ciphertext", "forged"} {
			if strings.Contains(broken.event, part) != strings.Contains(string(out[1].Event), part) {
				t.Errorf("%s: it is not as it came: %s", name, out[1].Event)
			}
		}
	}
}

// Attack A25: the homeserver says what a message replaced, as it does of state. That is a text
// that nobody encrypted, beside one that is said to be from a confirmed device.
func TestForgedEarlierContent(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	for _, content := range []string{
		`"type":"m.room.encrypted","content":` + string(said.seal(said.text("said"))),
		`"type":"m.room.message","content":{"msgtype":"m.text","body":"said"}`,
	} {
		raw := json.RawMessage(`{"event_id":"$x` + content[8:20] + `","sender":"` + bob.UserID + `","origin_server_ts":1,` + content +
			`,"prev_content":{"body":"forged"},"replaces_state":"$forged","unsigned":{"age":1,"prev_content":{"body":"forged"},"replaces_state":"$forged"}}`)
		out, err := st.dev.Open(t.Context(), []e2ee.Incoming{{RoomID: id.RoomID(room), Event: raw}})
		if err != nil {
			t.Fatal(err)
		}
		if ev := readShown(t, out[0].Event); ev.Content.Body != "said" || strings.Contains(string(out[0].Event), "forged") {
			t.Errorf("shown as %s", out[0].Event)
		}
	}
}
