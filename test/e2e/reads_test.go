package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// eventsOf returns the events in an answer, by ID.
func eventsOf(t *testing.T, lists ...[]json.RawMessage) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for _, list := range lists {
		for _, raw := range list {
			var e struct {
				EventID string `json:"event_id"`
			}
			if err := json.Unmarshal(raw, &e); err != nil {
				t.Fatal(err)
			}
			out[e.EventID] = string(raw)
		}
	}
	return out
}

// What real homeservers give where a client reads history is opened and marked as in a
// sync. What was said before the room was encrypted is not said to be in clear although the
// room is, on the page that shows the encryption and on those before it; a reaction is as
// it was.
func TestReadsOfHistory(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := element(t, hs, testpeer.NodeHost(t), "alice")
		b := newAccount(t, hs, "bob")
		bob := loginCurl(t, proxy.URL, b, "BOB")
		room := alice.CreateRoom(testpeer.Room{Invite: []string{b.UserID}})
		bob.AwaitRoom(room, "invite")
		bob.Join(room)
		alice.AwaitMember(room, b.UserID, "join")
		bob.awaitInOrder()
		oldest := bob.send(room, "m.room.message", text("the oldest"))
		old := bob.send(room, "m.room.message", text("before it was encrypted"))
		bob.Await(room, testpeer.Where{"event_id": old})

		other := loginCurl(t, hs.URL, b, "OTHER") // past the proxy
		alice.SetState(room, "m.room.encryption", "", map[string]any{"algorithm": "m.megolm.v1.aes-sha2"})
		clear := other.send(room, "m.room.message", text("in clear"))
		sealed := alice.SendText(room, "sealed")
		bob.Await(room, testpeer.Where{"event_id": sealed, "body": "sealed"})
		reaction := bob.React(room, sealed, "👍")
		bob.Await(room, testpeer.Where{"event_id": reaction})

		var page struct {
			Chunk []json.RawMessage `json:"chunk"`
			End   string            `json:"end"`
		}
		want := func(where string, got map[string]string, event, has, hasNot string) {
			t.Helper()
			if !strings.Contains(got[event], has) || strings.Contains(got[event], hasNot) {
				t.Errorf("%s: %s, want %q and not %q", where, got[event], has, hasNot)
			}
		}
		bob.call(http.MethodGet, roomPath(room, "messages")+"?dir=b&limit=100", nil, &page)
		got := eventsOf(t, page.Chunk)
		want("messages", got, sealed, `"decrypted":true`, "ciphertext")
		want("messages", got, clear, "SentInClear", "ciphertext")
		want("messages", got, reaction, "m.annotation", "SentInClear")
		want("messages", got, old, "before it was encrypted", "SentInClear")
		want("messages", got, oldest, "the oldest", "SentInClear")

		// Page by page, beyond the encryption.
		got, from := map[string]string{}, ""
		for got[oldest] == "" {
			page.Chunk, page.End = nil, ""
			bob.call(http.MethodGet, roomPath(room, "messages")+"?dir=b&limit=1"+from, nil, &page)
			maps.Copy(got, eventsOf(t, page.Chunk))
			if page.End == "" {
				break
			}
			from = "&from=" + page.End
		}
		want("page by page", got, clear, "SentInClear", "ciphertext")
		want("page by page", got, old, "before it was encrypted", "SentInClear")
		want("page by page", got, oldest, "the oldest", "SentInClear")

		var one json.RawMessage
		bob.call(http.MethodGet, roomPath(room, "event/%s", sealed), nil, &one)
		want("event", eventsOf(t, []json.RawMessage{one}), sealed, `"decrypted":true`, "ciphertext")
		var around struct {
			Event  json.RawMessage   `json:"event"`
			Before []json.RawMessage `json:"events_before"`
			After  []json.RawMessage `json:"events_after"`
		}
		bob.call(http.MethodGet, roomPath(room, "context/%s", sealed)+"?limit=100", nil, &around)
		got = eventsOf(t, []json.RawMessage{around.Event}, around.Before, around.After)
		want("context", got, sealed, `"decrypted":true`, "ciphertext")
		want("context", got, clear, "SentInClear", "ciphertext")
		want("context", got, old, "before it was encrypted", "SentInClear")
		page.Chunk = nil
		bob.call(http.MethodGet, "/_matrix/client/v1/rooms/"+strings.TrimPrefix(roomPath(room, "relations/%s", sealed), "/_matrix/client/v3/rooms/"), nil, &page)
		want("relations", eventsOf(t, page.Chunk), reaction, "m.annotation", "SentInClear")
	})
}
