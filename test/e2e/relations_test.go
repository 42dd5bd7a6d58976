package e2e

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
)

// wantJSON fails unless two values are the same JSON.
func wantJSON(t *testing.T, what string, want, got any) {
	t.Helper()
	var values [2]any
	for i, v := range []any{want, got} {
		raw, err := json.Marshal(v)
		if err == nil {
			err = json.Unmarshal(raw, &values[i])
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	if diff := cmp.Diff(values[0], values[1]); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// inThread returns a message in the thread of an event that mentions somebody.
func inThread(root, mention, body string) map[string]any {
	content := text(body)
	content["m.mentions"] = map[string]any{"user_ids": []string{mention}}
	content["m.relates_to"] = map[string]any{
		"rel_type": "m.thread", "event_id": root, "is_falling_back": true, "m.in_reply_to": map[string]any{"event_id": root},
	}
	return content
}

// Requirements 19.1, 19.2, 19.4, 19.8 and 19.11: threads, mentions and edits arrive whole
// on both sides; relations are in clear at the homeserver and nothing else is; the
// sender's own device finds its transaction ID; what the homeserver bundles with an event
// is readable too.
func TestThreadsMentionsAndTransactions(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		alice, bob, room := aliceAndBob(t, hs)
		root := alice.SendText(room, "the root")
		bob.Await(room, testpeer.Where{"event_id": root, "body": "the root"})

		sent := inThread(root, alice.UserID, "in the thread")
		threaded := bob.put(roomPath(room, "send/m.room.message/%s", "the transaction"), sent)
		got := alice.AwaitDecrypted(room, threaded)
		wantClean(t, got, "in the thread")
		wantJSON(t, "alice sees", sent, got.Content)
		mine := bob.Await(room, testpeer.Where{"event_id": threaded})
		wantJSON(t, "bob sees his own", sent, mine.Content)
		var unsigned struct {
			TransactionID string `json:"transaction_id"`
		}
		if err := json.Unmarshal(mine.Unsigned, &unsigned); err != nil || unsigned.TransactionID != "the transaction" {
			t.Errorf("bob finds transaction %q: %v", unsigned.TransactionID, err)
		}
		wantRelationInClear(t, hs, bob.account, room, threaded, sent["m.relates_to"])

		edit := bob.Edit(room, threaded, "still in the thread")
		alice.Await(room, testpeer.Where{"event_id": threaded, "edited": edit})
		wantRelationInClear(t, hs, bob.account, room, edit, map[string]any{"rel_type": "m.replace", "event_id": threaded})

		answer := inThread(root, bob.account.UserID, "back in the thread")
		answered := alice.Send(room, "m.room.message", answer)
		wantJSON(t, "bob sees", answer, bob.Await(room, testpeer.Where{"event_id": answered, "body": "back in the thread"}).Content)

		if hs.Kind == "synapse" { // Dendrite bundles nothing
			bob.wantBundled(room, root, answered)
		}
	})
}

// wantRelationInClear fails unless the homeserver has a relation of an event in clear,
// and nothing else of it.
func wantRelationInClear(t *testing.T, hs *tesths.Homeserver, as tesths.Account, room, event string, relation any) {
	t.Helper()
	stored, err := hs.Client().As(as).Event(t.Context(), room, event)
	if err != nil {
		t.Fatal(err)
	}
	var content map[string]json.RawMessage
	if err := json.Unmarshal(stored.Content, &content); err != nil {
		t.Fatal(err)
	}
	wantJSON(t, "the homeserver has the relation", relation, content["m.relates_to"])
	for name := range content {
		switch name {
		case "m.relates_to", "algorithm", "ciphertext", "session_id", "sender_key", "device_id":
		default:
			t.Errorf("the homeserver has %s in clear", name)
		}
	}
}

// wantBundled fails unless a sync from the beginning shows the latest event of a thread
// in clear, bundled with its root. Synapse bundles only where the timeline is limited.
func (c *curl) wantBundled(room, root, latest string) {
	c.t.Helper()
	var got struct {
		Rooms struct {
			Join map[string]struct {
				Timeline struct {
					Events []struct {
						EventID  string `json:"event_id"`
						Unsigned struct {
							Relations struct {
								Thread struct {
									Latest struct {
										EventID string `json:"event_id"`
										Type    string `json:"type"`
										Content struct {
											Body string `json:"body"`
										} `json:"content"`
									} `json:"latest_event"`
								} `json:"m.thread"`
							} `json:"m.relations"`
						} `json:"unsigned"`
					} `json:"events"`
				} `json:"timeline"`
			} `json:"join"`
		} `json:"rooms"`
	}
	filter := url.QueryEscape(`{"room":{"timeline":{"limit":4}}}`) // the root and what came after it
	c.call(http.MethodGet, "/_matrix/client/v3/sync?timeout=0&filter="+filter, nil, &got)
	for _, e := range got.Rooms.Join[room].Timeline.Events {
		if e.EventID != root {
			continue
		}
		if l := e.Unsigned.Relations.Thread.Latest; l.EventID != latest || l.Type != "m.room.message" || l.Content.Body != "back in the thread" {
			c.t.Errorf("the thread's latest event is %+v", l)
		}
		return
	}
	c.t.Errorf("the root is not in the sync: %+v", got)
}
