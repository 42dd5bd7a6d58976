package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testproxy"
)

// What docs/clear-text.md says, at real homeservers. A plain client puts words wherever
// words can go beside a message: the peer gets those that go into a message, and the
// homeserver stores none. What the homeserver would send at once is not sent.
func TestWordsBesideMessages(t *testing.T) {
	t.Parallel()
	const words = "CANARY-beside-a-message"
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		proxy := testproxy.Start(t, hs.URL, testproxy.Options{})
		alice := element(t, hs, testpeer.NodeHost(t), "alice")
		bot := newAccount(t, hs, "bot")
		bob := loginCurl(t, proxy.URL, bot, "")
		room := alice.CreateRoom(testpeer.Room{Encrypted: true, Invite: []string{bot.UserID}})
		plain := alice.CreateRoom(testpeer.Room{Invite: []string{bot.UserID}})
		for _, r := range []string{room, plain} {
			bob.AwaitRoom(r, "invite")
			bob.call(http.MethodPost, roomPath(r, "join"), map[string]any{"reason": words}, nil)
			alice.AwaitMember(r, bot.UserID, "join")
		}
		root := bob.SendText(room, "root")
		alice.AwaitDecrypted(room, root)

		content := text("in a thread")
		content["m.mentions"] = map[string]any{"user_ids": []string{"@" + words + ":hs"}}
		content["m.relates_to"] = map[string]any{
			"rel_type": "m.thread", "event_id": root, "is_falling_back": true, "org.example.quote": words,
			"m.in_reply_to": map[string]any{"event_id": root, "body": words},
		}
		threaded := bob.send(room, "m.room.message", content)
		got := alice.AwaitDecrypted(room, threaded)
		if !contains(got.Content, words) || !contains(got.RelatesTo, "m.thread") {
			t.Errorf("the peer sees %s, related by %s", got.Content, got.RelatesTo)
		}
		reaction := bob.send(room, "m.reaction", map[string]any{
			"shortcode": words, "m.relates_to": map[string]any{"rel_type": "m.annotation", "event_id": root, "key": "👍"},
		})
		alice.Await(room, testpeer.Where{"event_id": reaction, "rel_type": "m.annotation", "relates_to": root, "key": "👍"})
		gone := bob.SendText(room, "said too much")
		redaction := bob.put(roomPath(room, "redact/%s/%s", gone, bob.nextTxn()), map[string]any{"reason": words})
		alice.Await(room, testpeer.Where{"event_id": gone, "redacted": true})

		for path, want := range map[string]int{
			roomPath(room, "send/m.room.message/%s", bob.nextTxn()) + "?org.matrix.msc4140.delay=600000":  http.StatusForbidden,
			roomPath(plain, "send/m.room.message/%s", bob.nextTxn()) + "?org.matrix.msc4140.delay=600000": http.StatusForbidden,
			roomPath(plain, "state/org.example.delayed") + "?org.matrix.msc4140.delay=600000":             http.StatusForbidden,
			roomPath(room, "state/m.call.invite"):                                                         http.StatusBadRequest,
		} {
			resp, err := bob.http.Do(t.Context(), http.MethodPut, path, text(words))
			if err != nil || resp.Status != want {
				t.Errorf("%s: answered %d %s %v, want %d", path, resp.Status, resp.Body, err, want)
			}
		}
		last := bob.SendText(room, "last")
		alice.AwaitDecrypted(room, last)
		for _, event := range []string{root, threaded, reaction, gone, redaction, last} {
			stored, err := hs.Client().As(bot).Event(t.Context(), room, event)
			if err != nil {
				t.Fatal(err)
			}
			if contains(stored.Raw, words) {
				t.Errorf("the homeserver stores %s", stored.Raw)
			}
		}
		for _, r := range []string{room, plain} {
			events, err := hs.Client().As(bot).Messages(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if contains(e.Raw, words) {
					t.Errorf("the homeserver stores %s", e.Raw)
				}
			}
		}
		wantSearchInPlainRooms(t, bob, room, plain)
		wantNoSlidingSync(t, hs, bob)
	})
}

// wantSearchInPlainRooms searches everywhere, and in the encrypted room alone, of which the
// homeserver is not asked.
func wantSearchInPlainRooms(t *testing.T, c *curl, room, plain string) {
	t.Helper()
	const needle = "needle in a haystack"
	c.SendText(plain, needle)
	c.SendText(room, needle)
	search := func(filter map[string]any) tesths.Response {
		resp, err := c.http.Do(t.Context(), http.MethodPost, "/_matrix/client/v3/search", map[string]any{
			"search_categories": map[string]any{"room_events": map[string]any{"search_term": "needle", "filter": filter}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	resp := search(map[string]any{"rooms": []string{room}})
	if resp.Status != http.StatusOK || !contains(resp.Body, "dev.e2ee-proxy.search_index") || contains(resp.Body, plain) {
		t.Errorf("a search in the encrypted room: %d %s", resp.Status, resp.Body)
	}
	resp = search(map[string]any{})
	off := contains(resp.Body, "it answers 501") && contains(resp.Body, plain) // Dendrite without a search index
	if resp.Status != http.StatusOK || !off && !contains(resp.Body, needle) {
		t.Errorf("a search everywhere: %d %s", resp.Status, resp.Body)
	}
}

// wantNoSlidingSync checks that there is no sliding sync for a client that the proxy encrypts
// for, and that it is told so; before it logs in it is told what the homeserver has.
func wantNoSlidingSync(t *testing.T, hs *tesths.Homeserver, c *curl) {
	t.Helper()
	for _, path := range []string{"v4/sync", "unstable/org.matrix.simplified_msc3575/sync"} {
		resp, err := c.http.Do(t.Context(), http.MethodPost, "/_matrix/client/"+path, map[string]any{})
		if err != nil || resp.Status != http.StatusNotFound || !contains(resp.Body, "M_UNRECOGNIZED") {
			t.Errorf("%s: %d %s %v", path, resp.Status, resp.Body, err)
		}
	}
	if named := slidingSyncIn(t, c.http); named {
		t.Error("sliding sync is named to a client that cannot use it")
	}
	anonymous := c.http
	anonymous.Token = ""
	if got, want := slidingSyncIn(t, anonymous), slidingSyncIn(t, hs.Client()); got != want {
		t.Errorf("sliding sync is named without a token: %t, and the homeserver names it: %t", got, want)
	}
}

// slidingSyncIn reports whether /versions names sliding sync.
func slidingSyncIn(t *testing.T, c tesths.Client) (named bool) {
	t.Helper()
	var can struct {
		Versions []string                   `json:"versions"`
		Features map[string]json.RawMessage `json:"unstable_features"`
	}
	if err := c.Call(t.Context(), http.MethodGet, "/_matrix/client/versions", nil, &can); err != nil {
		t.Fatal(err)
	}
	if len(can.Versions) == 0 {
		t.Error("the homeserver has no version")
	}
	for name := range can.Features {
		named = named || strings.Contains(name, "msc3575")
	}
	return named
}
