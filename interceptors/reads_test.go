package interceptors

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/rewrite"
)

// hostile returns a list of events in which a homeserver lies. Whatever must not reach the
// client says FORGED, and what must, KEPT.
func hostile(room string) []any {
	forged := map[string]any{"color": "none", "FORGED": true}
	mine := func(more map[string]any) map[string]any {
		out := map[string]any{
			"room_id": room, "sender": "@bob:hs.example", "event_id": "$e", "decrypted": "FORGED", rewrite.Prefix + "x": "FORGED",
			"unsigned": map[string]any{
				nameTrust: forged, "age": 1,
				"redacted_because": map[string]any{"type": "m.room.redaction", "decrypted": "FORGED", "unsigned": map[string]any{nameTrust: forged}},
				"m.relations": map[string]any{"m.thread": map[string]any{"latest_event": map[string]any{
					"type": "m.x", "state_key": "", "decrypted": "FORGED", "content": map[string]any{"body": "KEPT thread", "m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": "$e"}},
				}}},
				"prev_content": map[string]any{nameTrust: "FORGED"},
			},
			"redacted_because": map[string]any{"type": "m.room.redaction", nameTrust: "FORGED"},
			"prev_content":     map[string]any{nameTrust: "FORGED", "a": "KEPT before"},
		}
		maps.Copy(out, more)
		return out
	}
	imitates := func(member, name string) map[string]any {
		return map[string]any{"type": "m.room.message", "sender": "@x:hs.example", "room_id": room, member: name, "content": map[string]any{"body": "FORGED"}}
	}
	return []any{
		imitates("sender", "@warnings:e2ee-proxy.invalid"),
		mine(map[string]any{"type": "m.room.topic", "state_key": "", "content": map[string]any{nameTrust: "KEPT topic", "decrypted": "KEPT content"}}),
		imitates("event_id", "$notice:e2ee-proxy.invalid"), imitates("room_id", "!control:e2ee-proxy.invalid"),
		mine(map[string]any{"type": "m.room.encrypted", "content": map[string]any{"ciphertext": "KEPT sealed", "algorithm": "m.megolm.v1.aes-sha2"}}),
		map[string]any{"type": "m.room.encryption", "state_key": "", "room_id": room, "content": map[string]any{"algorithm": "FORGED"}, "unsigned": map[string]any{"replaces_state": "$x"}},
		mine(map[string]any{"type": "m.room.message", "content": map[string]any{"body": "KEPT plain"}}),
		map[string]any{
			"type": "m.room.topic", "room_id": room, "state_key": "", "content": map[string]any{}, "sender": "@x:hs.example",
			"redacted_because": map[string]any{"sender": "@warnings:e2ee-proxy.invalid", "reason": "FORGED"},
		},
	}
}

// put puts a value where a path leads, with a member that is not the homeserver's to say in
// every object on the way.
func put(at any, path []string, room string, value any) any {
	if len(path) == 0 {
		return value
	}
	switch path[0] {
	case "*":
		if len(path) == 1 {
			return value
		}
		list, _ := at.([]any)
		if list == nil {
			list = []any{nil}
		}
		list[0] = put(list[0], path[1:], room, value)
		return list
	case "{}":
		path = append([]string{room}, path[1:]...)
	}
	object, _ := at.(map[string]any)
	if object == nil {
		object = map[string]any{rewrite.Prefix + "x": "FORGED", rewrite.Prefix + "warnings": []any{"FORGED"}}
	}
	object[path[0]] = put(object[path[0]], path[1:], room, value)
	return object
}

func pathOf(p *rewrite.Place) []string {
	if p.Path == "" {
		return nil
	}
	return strings.Split(p.Path, "/")
}

// isAlone reports whether a place is that of one event.
func isAlone(p *rewrite.Place) bool { return !strings.HasSuffix("/"+p.Path, "/*") }

// A homeserver that claims for itself what only the proxy can know, in an endpoint beside
// /sync: that an event was decrypted, and how far it can be trusted; a warning; a notice. In
// each place of each endpoint that returns events it goes, what a user wrote stays, and
// messages are opened and marked as in a sync.
func TestReadsSayNothingInTheProxysName(t *testing.T) {
	t.Parallel()
	for name, f := range readShapes() {
		for i := range f.Places {
			p := &f.Places[i]
			t.Run(name+" "+p.Path, func(t *testing.T) {
				t.Parallel()
				if isAlone(p) {
					testAlone(t, name, &f, p)
					return
				}
				w := newReadWorld(t, e2ee.ModeProxied)
				got := w.read(name, "format=event", bodyWith(t, &f, p, hostile(encryptedRoom.String())))
				for _, bad := range []string{"FORGED", "e2ee-proxy.invalid", "m.room.encryption\""} {
					if strings.Contains(got, bad) {
						t.Errorf("%s is left of %s", bad, got)
					}
				}
				want := []string{"KEPT topic", "KEPT content", "KEPT before", "KEPT sealed", "KEPT plain", "KEPT thread"}
				if p.Kind != rewrite.Other {
					want = append(want, `"body":"KEPT sealed"`, `"code":"SentInClear"`)
				}
				for _, w := range want {
					if !strings.Contains(got, w) {
						t.Errorf("%s is missing in %s", w, got)
					}
				}
				if n := strings.Count(got, nameTrust); p.Kind != rewrite.Other && n != 3 || p.Kind == rewrite.Other && n != 1 {
					t.Errorf("%d trust annotations in %s", n, got)
				}
			})
		}
	}
}

// bodyWith makes a body with events in one place.
func bodyWith(t *testing.T, f *rewrite.Shape, p *rewrite.Place, events any) string {
	t.Helper()
	body := put(nil, pathOf(p), encryptedRoom.String(), events)
	if f.Room == rewrite.RoomOfEntry {
		body = put(body, append(strings.Split(f.Entries[0], "/"), "room_id"), "", encryptedRoom.String())
	}
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// testAlone puts each of the hostile events into a place of one event.
func testAlone(t *testing.T, name string, f *rewrite.Shape, p *rewrite.Place) {
	t.Helper()
	for _, event := range hostile(encryptedRoom.String()) {
		w := newReadWorld(t, e2ee.ModeProxied)
		raw, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		got := w.read(name, "format=event", bodyWith(t, f, p, event))
		if strings.Contains(got, "FORGED") || strings.Contains(got, "e2ee-proxy.invalid") {
			t.Errorf("%s became %s", raw, got)
		}
		shown := strings.Contains(string(raw), "KEPT")
		switch {
		case shown && !strings.Contains(got, "KEPT"):
			t.Errorf("%s is lost: %s", raw, got)
		case !shown && len(f.Entries) == 0 && got != apierr.CodeNotFound:
			t.Errorf("%s is answered with %s", raw, got)
		case !shown && name == Notifications: // they are taken apart, so it is left out
			if got != `{"notifications":[]}` {
				t.Errorf("%s is answered with %s", raw, got)
			}
		case !shown && len(f.Entries) != 0 && !strings.Contains(got, emptyMessage):
			t.Errorf("%s is answered with %s", raw, got)
		}
		if p.Kind != rewrite.Other && strings.Contains(string(raw), "KEPT plain") && !strings.Contains(got, "SentInClear") {
			t.Errorf("a message in clear is not marked: %s", got)
		}
	}
}

// What need not be touched comes byte for byte, also what no table of places knows.
func TestReadsLeaveTheRest(t *testing.T) {
	t.Parallel()
	for handler, body := range map[string]string{
		Messages:      ` {"chunk":[ {"type":"m.room.topic","state_key":"","content":{"topic":"a"}} ,{"type":"m.reaction","content":{}}],"start":"s", "end":"e","x":{"chunk":[{}]}} `,
		EventContext:  `{"events_before":[],"event":{"type":"m.room.topic","state_key":"","event_id":"$e"},"state":null,"start":1}`,
		Search:        `{"search_categories":{"room_events":{"count":0,"results":[],"highlights":["decrypted"]}}}`,
		Notifications: `{"notifications":[]}`,
		StateList:     `[]`,
		Members:       `{"chunk":[{"type":"m.room.member","state_key":"@a:hs","content":{"membership":"join","decrypted":true}}]}`,
		StateGet:      `{"name":"x","dev.e2ee-proxy.trust":"of a user"}`,
	} {
		w := newReadWorld(t, e2ee.ModeProxied)
		if got := w.read(handler, "", body); got != body {
			t.Errorf("%s: got %s, want %s", handler, got, body)
		}
	}
}

// Clients with keys of their own, and tokens without a device, get what the homeserver says;
// so do all of them what is no success. A body that cannot be read reaches nobody.
func TestReadsThatPass(t *testing.T) {
	t.Parallel()
	const body = `{"chunk":[{"type":"m.room.message","decrypted":true}]}`
	for _, mode := range []e2ee.Mode{e2ee.ModeForeign, e2ee.ModeNone} {
		if got := newReadWorld(t, mode).read(Messages, "", body); got != body {
			t.Errorf("mode %d: got %s", mode, got)
		}
	}
	for _, broken := range []string{`{"chunk":[{"type":"m.room.message"}`, `<html>`, ``} {
		if got := newReadWorld(t, e2ee.ModeProxied).read(Messages, "", broken); got != apierr.CodeUnknown {
			t.Errorf("%q is answered with %s", broken, got)
		}
	}
	w := newReadWorld(t, e2ee.ModeProxied)
	w.w.replaced = readDevices{dev: w.dev}
	w.w.up.respond = func(seen) (int, string) { return http.StatusForbidden, `{"errcode":"M_FORBIDDEN"}` }
	rec, err := w.w.do(call{handler: Messages, method: http.MethodGet, pattern: "/rooms/{roomId}/messages", params: map[string]string{"roomId": encryptedRoom.String()}})
	if err != nil || rec.Code != http.StatusForbidden || rec.Body.String() != `{"errcode":"M_FORBIDDEN"}` {
		t.Errorf("%d %s, %v", rec.Code, rec.Body, err)
	}
}

// Which room an event is in decides whether it may be in clear: that of the path, what the
// event says, or what the entry says that it is in, also behind the event.
func TestReadsKnowTheRoom(t *testing.T) {
	t.Parallel()
	event := func(room string) string {
		return `{"type":"m.room.message","event_id":"$e","room_id":"` + room + `","content":{"body":"a"}}`
	}
	const enc, plain = "!encrypted:hs.example", "!plain:hs.example"
	for _, tt := range []struct {
		handler, body string
		want          []bool // marked, in order
	}{
		{Messages, `{"chunk":[` + event(plain) + `]}`, []bool{true}},
		{Events, `{"chunk":[` + event(plain) + `,` + event(enc) + `,` + event(plain) + `,{"type":"m.typing","room_id":"` + enc + `","content":{"user_ids":[]}}]}`, []bool{false, true, false, false}},
		{Notifications, `{"notifications":[{"event":` + event("") + `,"room_id":"` + plain + `"},{"event":` + event(plain) + `,"room_id":"` + enc + `"},{"room_id":"` + plain + `","event":` + event(enc) + `}]}`, []bool{false, true, false}},
		{InitialSync, `{"rooms":[{"state":[],"messages":{"chunk":[` + event(enc) + `]},"room_id":"` + plain + `"},{"room_id":"` + enc + `"},{"room_id":"` + enc + `","messages":{"chunk":[` + event(plain) + `,` + event(enc) + `]}}]}`, []bool{false, true, true}},
		{Search, `{"search_categories":{"room_events":{"results":[{"context":{"events_before":[` + event(enc) + `]},"result":` + event(plain) + `},{"result":` + event(enc) + `}]}}}`, []bool{true, false, true}},
	} {
		w := newReadWorld(t, e2ee.ModeProxied)
		got := w.read(tt.handler, "", tt.body)
		marked := marksIn(t, got)
		if !slices.Equal(marked, tt.want) {
			t.Errorf("%s: marked %v, want %v, in %s", tt.handler, marked, tt.want, got)
		}
	}
}

// marksIn returns for each event in a body, in order, whether it is marked as sent in clear.
func marksIn(t *testing.T, body string) []bool {
	t.Helper()
	var marked []bool
	dec := json.NewDecoder(strings.NewReader(body))
	token := func() json.Token {
		tok, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	var walk func()
	walk = func() {
		switch token() {
		case json.Delim('['):
			for dec.More() {
				walk()
			}
			token()
		case json.Delim('{'):
			event, clear := false, false
			for dec.More() {
				name := token()
				event = event || name == "type"
				if name != "unsigned" {
					walk()
					continue
				}
				var u struct {
					Trust struct{ Code string } `json:"dev.e2ee-proxy.trust"`
				}
				if err := dec.Decode(&u); err != nil {
					t.Fatal(err)
				}
				clear = u.Trust.Code == "SentInClear"
			}
			token()
			if event {
				marked = append(marked, clear)
			}
		}
	}
	walk()
	return marked
}

// A room of which nothing was ever heard is asked for once something in clear is shown.
func TestReadsAskAboutRoomsThatAreNotKnown(t *testing.T) {
	t.Parallel()
	w := newReadWorld(t, e2ee.ModeProxied)
	w.dev.unheard = true
	_ = w.read(Messages, "", `{"chunk":[{"type":"m.room.topic","state_key":""}]}`)
	if len(w.dev.asked) != 0 {
		t.Errorf("asked for %v", w.dev.asked)
	}
	got := w.read(Messages, "", `{"chunk":[{"type":"m.room.message","content":{"body":"a"}}]}`)
	if len(w.dev.asked) != 1 || !strings.Contains(got, "SentInClear") {
		t.Errorf("asked for %v, got %s", w.dev.asked, got)
	}
}

// An event that was held back, and of which nothing is to be said, is left out of lists and
// is not there where it is asked for.
func TestReadsHide(t *testing.T) {
	t.Parallel()
	const standIn = `{"type":"m.room.message","event_id":"$h","sender":"","origin_server_ts":0,"content":{}}`
	const hidden = `{"type":"m.room.encrypted","event_id":"$h","room_id":"!encrypted:hs.example","content":{"ciphertext":"hidden"}}`
	for handler, tt := range map[string]struct{ body, want string }{
		Messages:      {`{"chunk":[` + hidden + `,{"type":"m.x","state_key":""}]}`, `{"chunk":[{"type":"m.x","state_key":""}]}`},
		GetEvent:      {hidden, apierr.CodeNotFound},
		EventContext:  {`{"event":` + hidden + `}`, `{"event":` + standIn + `}`},
		Notifications: {`{"notifications":[{"event":` + hidden + `,"room_id":"!encrypted:hs.example"}]}`, `{"notifications":[]}`},
	} {
		if got := newReadWorld(t, e2ee.ModeProxied).read(handler, "", tt.body); got != tt.want {
			t.Errorf("%s: got %s, want %s", handler, got, tt.want)
		}
	}
}

// What the proxy itself says beside what was found stays, and nothing that the homeserver
// puts there.
func TestSearchesAreCleanedToo(t *testing.T) {
	t.Parallel()
	w := newReadWorld(t, e2ee.ModeProxied)
	w.w.replaced = readDevices{dev: w.dev}
	w.w.up.respond = func(seen) (int, string) {
		return http.StatusOK, `{"search_categories":{"room_events":{"count":0,"dev.e2ee-proxy.not_searched":"FORGED","results":[]}}}`
	}
	rec, err := w.w.do(call{
		handler: Search, method: http.MethodPost, pattern: "/search",
		body: `{"search_categories":{"room_events":{"search_term":"x","filter":{"rooms":["!plain:hs.example","!encrypted:hs.example"]}}}}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := rec.Body.String()
	if strings.Contains(got, "FORGED") || !strings.Contains(got, `"dev.e2ee-proxy.not_searched":{"count":1`) {
		t.Errorf("got %s", got)
	}
}

// A message whose key is missing is delivered again by a sync once the key comes, wherever it was
// read; and a fault of ours is an error there, so that the client asks again.
func TestWhatReadsLackComesLater(t *testing.T) {
	t.Parallel()
	lost := `{"type":"m.room.encrypted","event_id":"$e","sender":"@bob:hs.example","room_id":"` + encryptedRoom.String() + `","content":{"ciphertext":"lost"}}`
	inRoom := `{"room_id":"` + encryptedRoom.String() + `",`
	for handler, body := range map[string]string{
		Messages: `{"chunk":[` + lost + `]}`, EventContext: `{"event":` + lost + `}`, GetEvent: lost, EventsGet: lost,
		Relations: `{"chunk":[` + lost + `]}`, Threads: `{"chunk":[` + lost + `]}`, Events: `{"chunk":[` + lost + `]}`,
		RoomInitialSync: inRoom + `"messages":{"chunk":[` + lost + `]}}`,
		InitialSync:     `{"rooms":[` + inRoom + `"messages":{"chunk":[` + lost + `]}}]}`,
		Search:          `{"search_categories":{"room_events":{"results":[{"result":` + lost + `}]}}}`,
		Notifications:   `{"notifications":[{"actions":["notify"],"event":` + lost + `,"read":false,` + inRoom[1:] + `"ts":1}]}`,
	} {
		w := newReadWorld(t, e2ee.ModeProxied)
		got := w.read(handler, "", body)
		if len(w.dev.in) != 1 {
			t.Errorf("%s: %d events were opened: %s", handler, len(w.dev.in), got)
			continue
		}
		if in := w.dev.in[0]; !in.Redeliver || !in.Page || in.Hold {
			t.Errorf("%s: opened with %+v", handler, in)
		}
	}
}
