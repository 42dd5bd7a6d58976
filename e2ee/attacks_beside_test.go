package e2ee_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// sendContent encrypts and sends a content of a message.
func (p *person) sendContent(room, txn, content string) (eventID string, sent json.RawMessage) {
	p.t.Helper()
	out := e2ee.Outgoing{RoomID: id.RoomID(room), Type: "m.room.message", TxnID: txn, Content: json.RawMessage(content)}
	enc, err := p.dev.Encrypt(p.t.Context(), out)
	if err != nil {
		p.t.Fatal(err)
	}
	var answer struct {
		EventID string `json:"event_id"`
	}
	path := "rooms/" + url.PathEscape(room) + "/send/m.room.encrypted/" + txn
	call(p.t, p.hs, p.Session, http.MethodPut, path, enc.Content, &answer)
	return answer.EventID, enc.Content
}

// awaitContent waits until an event can be read, and returns its content.
func (p *person) awaitContent(room, event string) (content map[string]any) {
	p.t.Helper()
	await(p.t, p.UserID+" cannot read an event", func() bool {
		var in []e2ee.Incoming
		for _, raw := range p.encrypted(room) {
			if readShown(p.t, raw).EventID == event {
				in = append(in, e2ee.Incoming{RoomID: id.RoomID(room), Event: raw})
			}
		}
		shown, err := p.dev.Open(p.t.Context(), in)
		if err != nil {
			p.t.Fatal(err)
		}
		if len(shown) == 0 {
			return false
		}
		var ev map[string]any
		if err := json.Unmarshal(shown[0].Event, &ev); err != nil {
			p.t.Fatal(err)
		}
		content = contentOf(ev)
		return shown[0].Decrypted
	})
	return content
}

// beside returns what stands in clear beside a ciphertext.
func beside(t *testing.T, content json.RawMessage) map[string]any {
	t.Helper()
	var all map[string]any
	if err := json.Unmarshal(content, &all); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"algorithm", "ciphertext", "session_id"} {
		if all[name] == nil {
			t.Errorf("there is no %s", name)
		}
		delete(all, name)
	}
	return all
}

// Attack vector: a client puts its own things into a relation, which stands in clear beside
// the ciphertext: what it quotes, whom it mentions, a name of its own that is a text. The
// homeserver reads them, and counts highlights by a mention in clear.
//
// Expected: in clear are rel_type, event_id, key, is_falling_back and the event that is
// replied to, each of its type and bounded; everything is there again when the message is
// decrypted.
func TestNothingRidesBesideTheCiphertext(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice, bob := newPerson(t, hs, "alice", "ALICE"), newPerson(t, hs, "bob", "BOB")
	room := alice.newRoom(bob)
	const canary = "canary-in-a-relation"
	long := canary + strings.Repeat("x", 255)
	for txn, tt := range map[string]struct{ relation, clear string }{
		"thread": {
			`{"rel_type":"m.thread","event_id":"$root","is_falling_back":true,"m.in_reply_to":{"event_id":"$last"}}`,
			`{"rel_type":"m.thread","event_id":"$root","is_falling_back":true,"m.in_reply_to":{"event_id":"$last"}}`,
		},
		"reaction": {`{"rel_type":"m.annotation","event_id":"$e","key":"👍"}`, `{"rel_type":"m.annotation","event_id":"$e","key":"👍"}`},
		"a member more": {
			`{"rel_type":"m.thread","event_id":"$root","org.example.quote":{"body":"` + canary + `"}}`, `{"rel_type":"m.thread","event_id":"$root"}`,
		},
		"mentions": {
			`{"rel_type":"m.thread","event_id":"$root","m.mentions":{"user_ids":["@` + canary + `:hs"]}}`, `{"rel_type":"m.thread","event_id":"$root"}`,
		},
		"a member more of the reply": {
			`{"m.in_reply_to":{"event_id":"$last","body":"` + canary + `"},"event_id":"$root"}`, `{"event_id":"$root","m.in_reply_to":{"event_id":"$last"}}`,
		},
		"a reply that is a text":       {`{"m.in_reply_to":"` + canary + `","event_id":"$root"}`, `{"event_id":"$root"}`},
		"an event that is none":        {`{"rel_type":"m.thread","event_id":"` + canary + `"}`, `{"rel_type":"m.thread"}`},
		"an event that is a sentence":  {`{"rel_type":"m.thread","event_id":"$this ` + canary + `"}`, `{"rel_type":"m.thread"}`},
		"a type that is a sentence":    {`{"rel_type":"this ` + canary + `","event_id":"$root"}`, `{"event_id":"$root"}`},
		"a type that is an object":     {`{"rel_type":{"is":"` + canary + `"},"event_id":"$root"}`, `{"event_id":"$root"}`},
		"a key that is a list":         {`{"rel_type":"m.annotation","event_id":"$e","key":["` + canary + `"]}`, `{"rel_type":"m.annotation","event_id":"$e"}`},
		"a key without an end":         {`{"rel_type":"m.annotation","event_id":"$e","key":"` + long + `"}`, `{"rel_type":"m.annotation","event_id":"$e"}`},
		"an event ID without an end":   {`{"rel_type":"m.annotation","event_id":"$` + long + `"}`, `{"rel_type":"m.annotation"}`},
		"falling back to a sentence":   {`{"rel_type":"m.thread","event_id":"$root","is_falling_back":"` + canary + `"}`, `{"rel_type":"m.thread","event_id":"$root"}`},
		"a relation of own names only": {`{"org.example.quote":"` + canary + `"}`, ``},
	} {
		mentions := `{"user_ids":["@mentioned-` + canary + `:hs"]}`
		content := `{"msgtype":"m.text","body":"` + canary + `","m.mentions":` + mentions + `,"org.matrix.msc3952.mentions":` + mentions + `,"m.relates_to":` + tt.relation + `}`
		event, sent := alice.sendContent(room, url.PathEscape(txn), content)
		want := map[string]any{}
		if tt.clear != "" {
			want["m.relates_to"] = jsonOf(t, tt.clear)
		}
		if diff := cmp.Diff(want, beside(t, sent)); diff != "" {
			t.Errorf("%s: beside the ciphertext (-want +got):\n%s", txn, diff)
		}
		if diff := cmp.Diff(jsonOf(t, content), any(bob.awaitContent(room, event))); diff != "" {
			t.Errorf("%s: decrypted (-want +got):\n%s", txn, diff)
		}
	}
	if hs.PlaintextSeen(canary) {
		t.Error("the homeserver can read something of a relation")
	}
}

func jsonOf(t *testing.T, raw string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Attack vector: the homeserver changes the relation in clear of a message whose sender
// sealed more of it, or takes it away, so that the sealed rest is read as part of another
// relation.
//
// Expected: what is in clear counts, also by its absence; nothing of what was sealed for
// another relation is added to it.
func TestSealedRestOfAnotherRelation(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	sealed := map[string]any{"rel_type": "m.thread", "event_id": "$meant", "org.example.note": "sealed"}
	for name, tt := range map[string]struct{ clear, want map[string]any }{
		"as it was meant": {
			map[string]any{"rel_type": "m.thread", "event_id": "$meant"},
			map[string]any{"rel_type": "m.thread", "event_id": "$meant", "org.example.note": "sealed"},
		},
		"said otherwise in clear": {
			map[string]any{"rel_type": "m.thread", "event_id": "$meant", "org.example.note": "clear"},
			map[string]any{"rel_type": "m.thread", "event_id": "$meant", "org.example.note": "clear"},
		},
		"another event": {
			map[string]any{"rel_type": "m.thread", "event_id": "$another"},
			map[string]any{"rel_type": "m.thread", "event_id": "$another"},
		},
		"another type": {
			map[string]any{"rel_type": "m.reference", "event_id": "$meant"},
			map[string]any{"rel_type": "m.reference", "event_id": "$meant"},
		},
		"a reply was added": {
			map[string]any{"rel_type": "m.thread", "event_id": "$meant", "m.in_reply_to": map[string]any{"event_id": "$added"}},
			map[string]any{"rel_type": "m.thread", "event_id": "$meant", "m.in_reply_to": map[string]any{"event_id": "$added"}},
		},
		"none": {nil, nil},
	} {
		payload := said.text(name)
		maps.Copy(payload["content"].(map[string]any), map[string]any{"m.relates_to": sealed})
		clear := map[string]any{}
		if tt.clear != nil {
			clear["m.relates_to"] = tt.clear
		}
		event := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: with(t, said.seal(payload), clear)})
		body, _ := payload["content"].(map[string]any)["body"].(string)
		st.awaitText(event, body)
		got, _ := contentOf(st.shown[event])["m.relates_to"].(map[string]any)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: shown (-want +got):\n%s", name, diff)
		}
	}
}
