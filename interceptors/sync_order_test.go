package interceptors_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
)

// Reported: messages from before a room was encrypted are said to be "in clear although the
// room is". They are judged by where they stand relative to the state event that the sync
// shows: in front of the one that made the room encrypted, behind it, or nobody knows. A
// homeserver that repeats the event, or makes one up, in a room that was encrypted before
// makes nothing older by it.
func TestSyncTellsWhatWasBeforeEncryption(t *testing.T) {
	t.Parallel()
	const (
		before, after, unknown = e2ee.OrderBefore, e2ee.OrderAfter, e2ee.OrderUnknown
		first                  = `{"type":"m.room.encryption","state_key":"","content":{"algorithm":"m.megolm.v1.aes-sha2"}}`
		again                  = `{"type":"m.room.encryption","state_key":"","content":{},"unsigned":{"replaces_state":"$x"}}`
		older                  = `{"type":"m.room.encryption","state_key":"","content":{},"prev_content":{"algorithm":"x"}}`
		none                   = `{"type":"m.room.encryption","state_key":"other","content":{}}`
		a                      = `{"type":"m.room.message","event_id":"$a","content":{"body":"a"}}`
		b                      = `{"type":"m.room.message","event_id":"$b","content":{"body":"b"}}`
		joined                 = `{"type":"m.room.member","state_key":"@me:example.org","content":{"membership":"join"}}`
		other                  = `{"type":"m.room.member","state_key":"@you:example.org","content":{"membership":"join"}}`
	)
	for name, tt := range map[string]struct {
		since, timeline, state string
		known                  bool // the room was encrypted before
		a, b                   e2ee.Order
	}{
		"encrypted in a first sync":        {"", a + "," + first + "," + b, "", false, before, after},
		"repeated in a first sync":         {"", a + "," + again + "," + b, "", false, unknown, after},
		"twice in a first sync":            {"", a + "," + first + "," + b + "," + again, "", false, before, after},
		"encrypted before a first sync":    {"", a + "," + b, first, false, after, after},
		"changed after it began":           {"", a + "," + again + "," + b, first, false, after, after},
		"not shown in a first sync":        {"", a + "," + b, "", false, unknown, unknown},
		"of another kind":                  {"", a + "," + none + "," + b, "", false, unknown, unknown},
		"encrypted while the client syncs": {"s1", a + "," + first + "," + b, "", false, before, after},
		"encrypted before":                 {"s1", a + "," + b, "", true, after, after},
		"repeated by a member":             {"s1", a + "," + older + "," + b, "", true, after, after},
		"made up by the homeserver":        {"s1", a + "," + first + "," + b, "", true, after, after},
		"joined":                           {"s1", a + "," + b + "," + joined, "", true, unknown, unknown},
		"joined, with its state":           {"s1", a + "," + joined + "," + b, first, true, after, after},
		"somebody else joined":             {"s1", a + "," + other + "," + b, "", true, after, after},
	} {
		for _, stateFirst := range []bool{false, true} {
			timeline, state := `"timeline":{"events":[`+tt.timeline+`]}`, `"state":{"events":[`+tt.state+`]}`
			if stateFirst {
				timeline, state = state, timeline
			}
			w := newSyncWorld(t, `{"next_batch":"s2","rooms":{"join":{"!plain:hs":{"timeline":{"events":[`+a+`]}},"!a:hs":{`+timeline+`,`+state+`}}}}`, interceptors.SyncOptions{})
			w.dev.orders = map[string]e2ee.Order{}
			w.dev.encrypted = func(room id.RoomID) bool { return room == "!a:hs" }
			w.dev.known = func(room id.RoomID) bool { return tt.known && room == "!a:hs" }
			if _, err := w.sync(t, "since="+tt.since); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]e2ee.Order{"$a": tt.a, "$b": tt.b}, w.dev.orders); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
}
