package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
)

// Requirement 19.10: what was said in an encrypted room (a thread with a mention, a reply, an
// edit, a reaction, a redaction) is read back through every endpoint that returns events, as real
// homeservers answer there. Nowhere is there a cipher text or the room's encryption, also not in
// an invitation beside a membership; the thread, the reply and the mention are whole, and where a
// homeserver bundles the latest edit it is readable. In a sync it does that only after a gap.
func TestRelationsThroughEveryEndpoint(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, hs *tesths.Homeserver) {
		alice, bob, room := aliceAndBob(t, hs)
		root := alice.SendText(room, "the root")
		bob.Await(room, testpeer.Where{"event_id": root, "body": "the root"})
		threaded := bob.put(roomPath(room, "send/m.room.message/%s", "t1"), inThread(root, alice.UserID, "in the thread"))
		edited := bob.Edit(room, threaded, "edited in the thread")
		reply := bob.Reply(room, root, "a reply")
		bob.React(room, root, "👍")
		gone := bob.SendText(room, "taken back")
		bob.Redact(room, gone)
		last := alice.SendText(room, "the last")
		bob.Await(room, testpeer.Where{"event_id": last, "body": "the last"})
		bob.Await(room, testpeer.Where{"event_id": edited})

		v1 := func(format string, args ...string) string {
			return strings.Replace(roomPath(room, format, args...), "/v3/", "/v1/", 1)
		}
		sync := "/_matrix/client/v3/sync?timeout=0&filter=" + url.QueryEscape(`{"room":{"timeline":{"limit":50}}}`)
		for _, tt := range []struct {
			path string
			says []string // on every homeserver that has the endpoint
			edit bool     // the edited event is there, with its edit if the homeserver bundles any
		}{
			{roomPath(room, "messages") + "?dir=b&limit=100", []string{"the root", "in the thread", "a reply", "the last", "m.mentions"}, true},
			{roomPath(room, "context/%s", threaded) + "?limit=20", []string{"the root", "in the thread", "a reply", "m.mentions"}, true},
			{roomPath(room, "context/%s", threaded) + "?limit=3", []string{"in the thread"}, true},
			{roomPath(room, "event/%s", threaded), []string{"in the thread", "m.mentions", `"rel_type":"m.thread"`}, true},
			{roomPath(room, "event/%s", reply), []string{"a reply", "m.in_reply_to"}, false},
			{roomPath(room, "event/%s", root), []string{"the root"}, false},
			{v1("relations/%s", root), []string{"in the thread"}, true},
			{v1("relations/%s/m.thread", root), []string{"in the thread", "m.mentions"}, true},
			{v1("relations/%s/m.thread/m.room.message", root), []string{"in the thread"}, true},
			{v1("relations/%s/m.replace", threaded), []string{"edited in the thread"}, false},
			{v1("threads"), []string{"the root"}, false},
			{roomPath(room, "initialSync") + "?limit=50", []string{"in the thread", "a reply"}, false},
			{roomPath(room, "state"), []string{"m.room.create"}, false},
			{roomPath(room, "members"), []string{alice.UserID, bob.account.UserID}, false},
			{"/_matrix/client/v3/initialSync?limit=50", nil, false},
			{"/_matrix/client/v3/notifications", nil, false},
			{"/_matrix/client/v3/events?timeout=0", nil, false},
			{sync, []string{"the root", "in the thread", "a reply", "the last", "m.mentions"}, false},
			{strings.Replace(sync, "50", "7", 1), []string{"in the thread", "the last"}, true}, // after a gap
		} {
			resp := bob.get(tt.path)
			body := withoutAccountData(t, resp.Body)
			if resp.Status != http.StatusOK {
				if optional(hs, tt.path) {
					continue
				}
				t.Errorf("%s: %d %s", tt.path, resp.Status, body)
				continue
			}
			for _, bad := range []string{"ciphertext", `"m.room.encrypted"`, `"type":"m.room.encryption"`, "taken back"} {
				if strings.Contains(body, bad) {
					t.Errorf("%s: %s is in %s", tt.path, bad, body)
				}
			}
			for _, said := range tt.says {
				if !strings.Contains(body, said) {
					t.Errorf("%s: %q is not in %s", tt.path, said, body)
				}
			}
			if tt.edit && hs.Kind == "synapse" {
				wantEdit(t, tt.path, resp.Body, threaded, edited, "edited in the thread")
			}
		}
		if bob.saw(`"type":"m.room.encryption"`) {
			t.Error("a sync has shown the room's encryption")
		}
	})
}

// withoutAccountData returns an answer without what the user has stored, which has secrets of its
// own and rules for encrypted events.
func withoutAccountData(t *testing.T, body []byte) string {
	t.Helper()
	var object map[string]any
	if json.Unmarshal(body, &object) != nil {
		return string(body) // a list
	}
	delete(object, "account_data")
	out, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// optional reports whether a homeserver does not have an endpoint.
func optional(hs *tesths.Homeserver, path string) bool {
	for _, part := range []string{"/threads", "/initialSync", "/events", "/notifications"} {
		if hs.Kind != "synapse" && strings.Contains(path, part) {
			return true
		}
	}
	return false
}

// wantEdit fails unless an event in an answer has its latest edit bundled, in clear.
func wantEdit(t *testing.T, path string, body []byte, event, edit, text string) {
	t.Helper()
	var top any
	if err := json.Unmarshal(body, &top); err != nil {
		t.Fatal(err)
	}
	found := ""
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if v["event_id"] == event {
				unsigned, _ := v["unsigned"].(map[string]any)
				relations, _ := unsigned["m.relations"].(map[string]any)
				if e, ok := relations["m.replace"].(map[string]any); ok {
					content, _ := e["content"].(map[string]any)
					found = fmt.Sprint(e["event_id"], e["type"], content["m.new_content"])
				}
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(top)
	if !strings.HasPrefix(found, edit+"m.room.message") || !strings.Contains(found, text) {
		t.Errorf("%s: the edit is %q in %s", path, found, body)
	}
}
