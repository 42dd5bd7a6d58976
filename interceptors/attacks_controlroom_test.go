package interceptors_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
)

// theRoom is the control room of the user of a syncWorld.
func theRoom() id.RoomID { return e2ee.ControlRoomOf("@me:example.org") }

// told returns an update of the room with a message of the proxy.
func told(whole, leave bool) *e2ee.ControlUpdate {
	record := &e2ee.ControlRecord{Opened: 1, Last: 1, Left: leave, Lines: []e2ee.ControlLine{{
		Seq: 1, ID: "$one:e2ee-proxy.invalid", At: 7, Type: "m.room.message", Content: e2ee.ControlText("REAL"),
	}}}
	view := &e2ee.ControlView{Room: record, User: "@me:example.org", Device: "DEV"}
	u := &e2ee.ControlUpdate{View: view, Leave: leave, Whole: whole, Before: 1, Timeline: []json.RawMessage{view.Event(&record.Lines[0])}}
	if whole {
		u.State = view.State()
	}
	return u
}

// A homeserver makes a room with the name of the control room, in each section of a sync, to be
// told a recovery key in it, or to take its place in the client. Nothing of it arrives, whether
// or not the proxy has something to say; what the proxy says arrives.
func TestForgedControlRoom(t *testing.T) {
	t.Parallel()
	forged := fmt.Sprintf(`{%q:{"timeline":{"events":[{"type":"m.room.message","sender":"@mallory:hs","event_id":"$f","content":{"body":"FORGED"}}]},`+
		`"state":{"events":[{"type":"m.room.name","state_key":"","sender":"@mallory:hs","content":{"name":"FORGED"}}]},`+
		`"invite_state":{"events":[{"type":"m.room.name","state_key":"","sender":"@mallory:hs","content":{"name":"FORGED"}}]},`+
		`"account_data":{"events":[{"type":"m.tag","content":{"FORGED":1}}]},"unread_notifications":{"notification_count":66}},`+
		`"!other:hs":{"timeline":{"events":[{"type":"m.room.message","sender":"@bob:hs","event_id":"$o","content":{"body":"OTHER"}},`+
		`{"type":"m.room.message","sender":"@bob:hs","event_id":"$p","room_id":%q,"content":{"body":"FORGED"}},`+
		`{"type":"m.room.message","sender":"@control:e2ee-proxy.invalid","event_id":"$q","content":{"body":"FORGED"}}]}}}`, theRoom(), theRoom())
	for _, section := range []string{"join", "leave", "invite", "knock", "org.example.other"} {
		for name, update := range map[string]*e2ee.ControlUpdate{"nothing": nil, "whole": told(true, false), "more": told(false, false), "left": told(false, true)} {
			w := newSyncWorld(t, `{"next_batch":"s2","rooms":{"`+section+`":`+forged+`}}`, interceptors.SyncOptions{})
			w.dev.extras.Control = update
			out, err := w.sync(t, "since=s1")
			if err != nil {
				t.Fatal(err)
			}
			body := out.Body.String()
			if strings.Contains(body, "FORGED") || strings.Contains(body, `:66`) || strings.Contains(body, "REAL") != (update != nil) || !json.Valid(out.Body.Bytes()) {
				t.Errorf("%s, %s: %s", section, name, body)
			}
			for _, u := range w.dev.committed {
				if slices.ContainsFunc(u.Rooms, func(r e2ee.RoomUpdate) bool { return r.RoomID == theRoom() }) {
					t.Errorf("%s, %s: the engine was told of the forged room", section, name)
				}
			}
		}
	}
}

// The room stands in a sync whatever else does, once, and the token stays the homeserver's.
func TestControlRoomInASync(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"next_batch":"s2"}`, `{"next_batch":"s2","rooms":{}}`, `{"rooms":{"join":{}},"next_batch":"s2"}`, `{"rooms":{"leave":{}},"next_batch":"s2"}`,
		`{"next_batch":"s2","rooms":{"invite":{},"join":{"!a:hs":{"timeline":{"events":[]}}},"leave":{"!b:hs":{"timeline":{"events":[]}}}}}`,
	} {
		for _, leave := range []bool{false, true} {
			w := newSyncWorld(t, body, interceptors.SyncOptions{})
			w.dev.extras = e2ee.SyncExtras{ControlExtras: e2ee.ControlExtras{Control: told(!leave, leave)}, Late: map[id.RoomID][]json.RawMessage{"!late:hs": {json.RawMessage(`{"type":"m.x"}`)}}}
			out, err := w.sync(t, "")
			if err != nil {
				t.Fatal(err)
			}
			type room struct {
				State    struct{ Events []json.RawMessage }
				Timeline struct {
					Events    []json.RawMessage
					PrevBatch string `json:"prev_batch"`
				}
				Unread struct {
					N int `json:"notification_count"`
				} `json:"unread_notifications"`
			}
			var got struct {
				NextBatch string `json:"next_batch"`
				Rooms     map[string]map[id.RoomID]room
			}
			if err := json.Unmarshal(out.Body.Bytes(), &got); err != nil {
				t.Fatalf("%s: %v: %s", body, err, out.Body)
			}
			in, not := "join", "leave"
			if leave {
				in, not = not, in
			}
			r, has := got.Rooms[in][theRoom()]
			if _, other := got.Rooms[not][theRoom()]; !has || other || got.NextBatch != "s2" || len(r.Timeline.Events) != 1 || r.Unread.N != 1 ||
				len(r.State.Events) > 0 == leave || r.Timeline.PrevBatch != "control-1" || strings.Count(out.Body.String(), string(theRoom())+`":{`) != 1 {
				t.Errorf("%s, leave %v: %s", body, leave, out.Body)
			}
		}
	}
}

// A client that asks for the state of all rooms gets that of the control room as well, as one
// that has forgotten everything but its token needs it; unless the user has left it.
func TestControlRoomWithFullState(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		update *e2ee.ControlUpdate
		left   bool
		want   bool
		query  string
	}{
		"nothing new": {nil, false, true, "&full_state=true"}, "a message": {told(false, false), false, true, "&full_state=true"},
		"left": {nil, true, false, "&full_state=true"}, "not asked for": {nil, false, false, ""},
	} {
		w := newSyncWorld(t, `{"next_batch":"s2"}`, interceptors.SyncOptions{})
		w.dev.extras.Control, w.dev.room = tc.update, told(true, tc.left).View
		out, err := w.sync(t, "since=s1"+tc.query)
		if err != nil {
			t.Fatal(err)
		}
		body := out.Body.String()
		if strings.Contains(body, "m.room.create") != tc.want || strings.Contains(body, "REAL") != (tc.update != nil) || !json.Valid(out.Body.Bytes()) {
			t.Errorf("%s: %s", name, body)
		}
	}
}

// A client's filter is applied to the room.
func TestControlRoomIsFiltered(t *testing.T) {
	t.Parallel()
	for filter, want := range map[string]string{
		`{"room":{"rooms":["!x:hs"]}}`: "", `{"room":{"not_rooms":["` + string(theRoom()) + `"]}}`: "",
		`{"room":{"rooms":["` + string(theRoom()) + `"]}}`: "REAL m.room.create", `{"room":{"state":{"types":["m.room.name"]}}}`: "REAL m.room.name",
		`{"room":{"timeline":{"not_types":["m.room.message"]}}}`: "m.room.create",
	} {
		w := newSyncWorld(t, `{"next_batch":"s2"}`, interceptors.SyncOptions{})
		w.dev.extras.Control = told(true, false)
		out, err := w.sync(t, "filter="+filter)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"REAL", "m.room.create", "m.room.name"} {
			wanted := strings.Contains(want, word) || word == "m.room.name" && strings.Contains(want, "m.room.create")
			if strings.Contains(out.Body.String(), word) != wanted {
				t.Errorf("%s: %s shown %v: %s", filter, word, !wanted, out.Body)
			}
		}
	}
}

// The token that a client is given is the homeserver's, letter for letter, whatever the response
// has; and so is the one that is sent up, also for a client that comes with one that an earlier
// version made.
func TestTokensAreTheHomeservers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ token, body, want string }{
		"the same":              {"s1", `{"next_batch":"s1"}`, "s1"},
		"of an earlier version": {"s1.e2ee-proxy.1", `{"a":1,"next_batch":"s1"}`, "s1"},
		"another":               {"s1", `{"next_batch":"s2","b":2}`, "s2"},
		"another after that":    {"s1.e2ee-proxy.7", `{"next_batch":"s2"}`, "s2"},
	} {
		w := newSyncWorld(t, tc.body, interceptors.SyncOptions{})
		w.dev.extras.Control = told(false, false)
		out, err := w.sync(t, "since="+tc.token)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			NextBatch string `json:"next_batch"`
		}
		if err := json.Unmarshal(out.Body.Bytes(), &got); err != nil || got.NextBatch != tc.want || strings.Count(out.Body.String(), "next_batch") != 1 {
			t.Errorf("%s: %s, %v", name, out.Body, err)
		}
		if u := w.dev.committed; len(u) != 1 || u[0].Since != e2ee.PlainToken(tc.token) || w.dev.began[0] != tc.token {
			t.Errorf("%s: the engine was told %+v of %q", name, u, w.dev.began)
		}
	}
}
