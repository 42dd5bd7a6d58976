package interceptors_test

import (
	"encoding/json"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
)

// The numbers of a room are the engine's if those differ, wherever the homeserver put its own,
// and the homeserver's as they came otherwise.
func TestSyncUnreadNumbers(t *testing.T) {
	t.Parallel()
	const (
		sealed  = `"timeline":{"events":[{"type":"m.room.encrypted","event_id":"$e","content":{"ciphertext":{"type":"m.room.message","content":{"body":"x"}}}}]}`
		numbers = `"unread_notifications":{"highlight_count":0,"notification_count":5,"org.example.more":1}`
		threads = `"unread_thread_notifications":{"$r":{"highlight_count":0,"notification_count":2},"$s":{"notification_count":1}}`
		ours    = `{"highlight_count":1,"notification_count":4,"org.example.more":1}`
	)
	differ := map[id.EventID]e2ee.UnreadCounts{"": {Notifications: 4, Highlights: 1}, "$r": {Notifications: 1, Highlights: 1}, "$new": {Highlights: 1, Notifications: 1}, "$none": {}}
	for _, tt := range []struct {
		name, room  string
		unread      map[id.EventID]e2ee.UnreadCounts
		split       bool
		all, thread string
	}{
		{"behind the timeline", sealed + `,` + numbers, differ, false, ours, ``},
		{"in front of it", numbers + `,` + sealed, differ, false, ours, ``},
		{"alone", numbers, differ, false, ours, ``},
		{"an empty timeline", `"timeline":{"events":[]},` + numbers, differ, false, ours, ``},
		{"a timeline without events", numbers + `,"timeline":{}`, differ, false, ours, ``},
		{"absent", sealed, differ, false, `{"notification_count":4,"highlight_count":1}`, ``},
		{"no object", sealed + `,"unread_notifications":7`, differ, false, `{"notification_count":4,"highlight_count":1}`, ``},
		{"the same", sealed + `,` + numbers, nil, false, numbers[len(`"unread_notifications":`):], ``},
		{"the same, with threads", threads + `,` + sealed, nil, true, ``, threads[len(`"unread_thread_notifications":`):]},
		{
			"by thread", numbers + `,` + sealed + `,` + threads, differ, true, ours,
			`{"$r":{"highlight_count":1,"notification_count":1},"$s":{"notification_count":1},"$new":{"notification_count":1,"highlight_count":1}}`,
		},
		{
			"a thread that the homeserver does not count", numbers, differ, true, ours,
			`{"$new":{"notification_count":1,"highlight_count":1},"$r":{"notification_count":1,"highlight_count":1}}`,
		},
	} {
		w := newSyncWorld(t, `{"next_batch":"s2","rooms":{"join":{"!a:hs":{`+tt.room+`},"!b:hs":{"unread_notifications":{"notification_count":9}}}}}`, interceptors.SyncOptions{})
		w.dev.encrypted = func(room id.RoomID) bool { return room == "!a:hs" }
		if tt.unread != nil {
			w.dev.unread = map[id.RoomID]map[id.EventID]e2ee.UnreadCounts{"!a:hs": tt.unread}
		}
		query := url.Values{"since": {"s1"}}
		if tt.split {
			query.Set("filter", `{"room":{"timeline":{"unread_thread_notifications":true}}}`)
		}
		out, err := w.sync(t, query.Encode())
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Rooms struct {
				Join map[string]map[string]json.RawMessage `json:"join"`
			} `json:"rooms"`
		}
		if err := json.Unmarshal(out.Body.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v: %s", tt.name, err, out.Body)
		}
		a := got.Rooms.Join["!a:hs"]
		if diff := cmp.Diff([]string{tt.all, tt.thread}, []string{string(a["unread_notifications"]), string(a["unread_thread_notifications"])}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if plain := string(got.Rooms.Join["!b:hs"]["unread_notifications"]); plain != `{"notification_count":9}` {
			t.Errorf("%s: the plain room has %s", tt.name, plain)
		}
	}
}

// A room that is in the response only for an event that came late has its numbers too.
func TestSyncUnreadNumbersOfLateEvents(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`{"next_batch":"s2"}`, `{"next_batch":"s2","rooms":{}}`, `{"next_batch":"s2","rooms":{"join":{}}}`} {
		w := newSyncWorld(t, body, interceptors.SyncOptions{})
		w.dev.extras.Late = map[id.RoomID][]json.RawMessage{"!a:hs": {json.RawMessage(`{"type":"m.room.message","event_id":"$l"}`)}}
		w.dev.unread = map[id.RoomID]map[id.EventID]e2ee.UnreadCounts{"!a:hs": {"": {Notifications: 2, Highlights: 1}}}
		out, err := w.sync(t, "since=s1")
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Rooms struct {
				Join map[string]struct {
					Unread e2ee.UnreadCounts `json:"unread_notifications"`
				} `json:"join"`
			} `json:"rooms"`
		}
		if err := json.Unmarshal(out.Body.Bytes(), &got); err != nil {
			t.Fatalf("%v: %s", err, out.Body)
		}
		if diff := cmp.Diff(e2ee.UnreadCounts{Notifications: 2, Highlights: 1}, got.Rooms.Join["!a:hs"].Unread); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
	}
}

// What the engine is told of a response: the events of encrypted rooms, the user's own
// receipts, the numbers, the user's name, and the push rules, also when the client's filter
// leaves them out.
func TestSyncTellsOfUnreadMessages(t *testing.T) {
	t.Parallel()
	const body = `{"next_batch":"s2","account_data":{"events":[{"type":"m.push_rules","content":{"global":{}}}]},"rooms":{"join":{
		"!a:hs":{"ephemeral":{"events":[{"type":"m.receipt","content":{
			"$1":{"m.read":{"@me:example.org":{"ts":7000,"thread_id":"main"},"@other:hs":{"ts":1}}},
			"$2":{"m.read.private":{"@me:example.org":{"ts":8000}},"m.fully_read":{"@me:example.org":{"ts":9}}}}}]},
		 "summary":{"m.joined_member_count":3},
		 "state":{"events":[{"type":"m.room.member","state_key":"@me:example.org","event_id":"$s","sender":"@me:example.org","content":{"membership":"join","displayname":"Mimi"}}]},
		 "unread_notifications":{"notification_count":2,"highlight_count":1},
		 "timeline":{"limited":true,"events":[
			{"type":"m.room.topic","state_key":"","event_id":"$t","origin_server_ts":1500,"content":{}},
			{"type":"m.room.encrypted","event_id":"$3","origin_server_ts":2500,"unsigned":{"membership":"leave"},"content":{"m.relates_to":{"rel_type":"m.thread","event_id":"$root"}}},
			{"type":"m.reaction","event_id":"$4","origin_server_ts":-1,"content":{"m.relates_to":{"rel_type":"m.annotation","event_id":"$3"}}},
			{"type":"m.room.redaction","event_id":"$5","redacts":"$3","content":{}},
			{"type":"m.room.encrypted","state_key":"","event_id":"$6","content":{}},
			{"type":"m.reaction","event_id":"$7","redacts":"$3","content":{"redacts":"$3"}},
			{"type":"m.room.redaction","event_id":"$8","content":{"redacts":"$4"}}]}},
		"!plain:hs":{"unread_notifications":{"notification_count":2},"timeline":{"events":[{"type":"m.room.message","event_id":"$p","content":{}}]}}}}}`
	w := newSyncWorld(t, body, interceptors.SyncOptions{})
	w.dev.encrypted = func(room id.RoomID) bool { return room == "!a:hs" }
	out, err := w.sync(t, url.Values{"since": {"s1"}, "filter": {`{"account_data":{"not_types":["*"]},"room":{"ephemeral":{"not_types":["m.receipt"]}}}`}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if json.Valid(out.Body.Bytes()) && len(w.dev.committed) != 1 {
		t.Fatalf("%d committed: %s", len(w.dev.committed), out.Body)
	}
	name := "Mimi"
	ref := e2ee.UnreadRef[id.EventID]
	want := e2ee.UnreadUpdate{Rules: json.RawMessage(`{"global":{}}`), Rooms: []e2ee.UnreadRoom{{
		RoomID: "!a:hs", Limited: true, Name: &name, Members: 3, Counts: &e2ee.UnreadCounts{Notifications: 2, Highlights: 1},
		Timeline: []e2ee.UnreadEvent{
			{Ref: ref("$t"), At: 1}, {Ref: ref("$3"), At: 2, Sealed: true, Outside: true}, {Ref: ref("$4")}, {Ref: ref("$5")}, {Ref: ref("$6")}, {Ref: ref("$7")}, {Ref: ref("$8")},
		},
		Redacted:  []id.EventID{"$3", "$4"},
		Relations: map[int]e2ee.UnreadRelation{1: {Root: "$root"}, 2: {About: ref("$3")}, 3: {About: ref("$3"), Redacts: true}, 6: {About: ref("$4"), Redacts: true}},
		Receipts:  []e2ee.UnreadReceipt{{Event: "$1", Thread: "main", Timestamp: 7000}, {Event: "$2", Timestamp: 8000}},
	}}}
	if diff := cmp.Diff(want, w.dev.committed[0].Unread); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
