package interceptors

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// historyServer is a homeserver with one room, whose history it gives newest first. It limits
// types and senders as the filter says, before it counts (Synapse) or after it (Dendrite, which
// also ends where nothing is left).
type historyServer struct {
	events   []map[string]any
	dendrite bool
	// again gives the token of a page that was asked for before, by the number of the request.
	again func(request int) string
	asked []url.Values
	paths []string
}

func sealedEvent(n int, sender, text string) map[string]any {
	return map[string]any{
		"type": "m.room.encrypted", "event_id": fmt.Sprint("$", n), "sender": sender, "room_id": encryptedRoom.String(),
		"content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": text},
	}
}

func topicEvent(n int) map[string]any {
	return map[string]any{"type": "m.room.topic", "state_key": "", "event_id": fmt.Sprint("$", n), "sender": "@bob:hs.example", "content": map[string]any{}}
}

func (h *historyServer) passes(event map[string]any, filter string) bool {
	var f struct {
		Types    []string `json:"types"`
		NotTypes []string `json:"not_types"`
		Senders  []string `json:"senders"`
	}
	_ = json.Unmarshal([]byte(filter), &f)
	kind, _ := event["type"].(string)
	sender, _ := event["sender"].(string)
	return (f.Types == nil || slices.Contains(f.Types, kind)) && !slices.Contains(f.NotTypes, kind) && (f.Senders == nil || slices.Contains(f.Senders, sender))
}

func (h *historyServer) answer(s seen) (int, string) {
	q, err := url.ParseQuery(s.query)
	if err != nil {
		return http.StatusBadRequest, `{}`
	}
	h.asked, h.paths = append(h.asked, q), append(h.paths, s.path)
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil {
		limit = 2
	}
	from, _ := strconv.Atoi(strings.TrimPrefix(q.Get("from"), "t"))
	chunk, at := []any{}, from
	for counted := 0; at < len(h.events) && counted < limit; at++ {
		passes := h.passes(h.events[at], q.Get("filter"))
		if passes {
			chunk = append(chunk, h.events[at])
		}
		if passes || h.dendrite {
			counted++
		}
	}
	body := map[string]any{"start": fmt.Sprint("t", from), "chunk": chunk}
	token := "end"
	if strings.Contains(s.path, "/relations/") {
		token = "next_batch"
	}
	if len(chunk) > 0 || at < len(h.events) && !h.dendrite {
		body[token] = fmt.Sprint("t", at)
	}
	if h.again != nil {
		body[token] = h.again(len(h.asked))
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return http.StatusInternalServerError, `{}`
	}
	return http.StatusOK, string(raw)
}

// pageOf is what a client sees of a page.
type pageOf struct {
	Chunk []struct {
		EventID string `json:"event_id"`
		Type    string `json:"type"`
	} `json:"chunk"`
	End   string `json:"end"`
	Next  string `json:"next_batch"`
	raw   string
	other int // the status, if it is not 200
}

func (p *pageOf) ids() string {
	var ids []string
	for _, e := range p.Chunk {
		ids = append(ids, e.EventID)
	}
	return strings.Join(ids, " ")
}

type pageWorld struct {
	*readWorld
	hs *historyServer
}

func newPageWorld(t *testing.T, hs *historyServer) *pageWorld {
	t.Helper()
	w := newReadWorld(t, e2ee.ModeProxied)
	w.w.replaced = readDevices{dev: w.dev}
	w.w.up.respond = hs.answer
	return &pageWorld{w, hs}
}

func (w *pageWorld) get(c call) pageOf {
	w.t.Helper()
	c.method = http.MethodGet
	rec, err := w.w.do(c)
	if said, ok := errors.AsType[*apierr.Error](err); ok {
		return pageOf{other: said.Status, raw: said.ErrCode}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	got := pageOf{raw: rec.Body.String()}
	if rec.Code != http.StatusOK {
		got.other = rec.Code
		return got
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
		w.t.Fatalf("%s: %v", rec.Body, err)
	}
	return got
}

func (w *pageWorld) messages(room, query, filter string) pageOf {
	w.t.Helper()
	return w.get(call{
		handler: Messages, pattern: "/rooms/{roomId}/messages", params: map[string]string{"roomId": room},
		query: query + "&filter=" + url.QueryEscape(filter),
	})
}

// Observed: Synapse 1.163.2 and Dendrite 0.15.2 apply the filter of GET messages to what they
// have, so that types ["m.room.message"] finds nothing in an encrypted room, and Dendrite even
// says that its history ends there. What goes up lets encrypted events pass, and the client's
// filter is applied to the clear ones.
func TestFilterOfAPageIsAboutClearEvents(t *testing.T) {
	t.Parallel()
	events := []map[string]any{
		sealedEvent(0, "@bob:hs.example", "text"), topicEvent(1), sealedEvent(2, "@carol:hs.example", "text"), sealedEvent(3, "@bob:hs.example", "lost"),
		{
			"type": "m.room.encryption", "state_key": "", "event_id": "$4", "sender": "@bob:hs.example", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"},
			"unsigned": map[string]any{"replaces_state": "$x"},
		},
		{"type": "m.reaction", "event_id": "$5", "sender": "@bob:hs.example", "content": map[string]any{"m.relates_to": map[string]any{}}},
	}
	for _, tt := range []struct{ filter, up, want string }{
		{`{"types":["m.room.message"]}`, `{"types":["m.room.message","m.room.encrypted","m.room.encryption"]}`, "$0 $2"},
		{`{"types":["m.room.mess*"]}`, `{}`, "$0 $2"},
		{`{"types":["m.room.encrypted"]}`, `{"types":["m.room.encrypted","m.room.encryption"]}`, "$3"},
		{`{"not_types":["m.room.message","m.room.topic"]}`, `{"not_types":["m.room.message","m.room.topic"]}`, "$3 $5"},
		{`{"not_types":["m.room.*"]}`, `{"not_types":[]}`, "$5"},
		{`{"types":["m.room.message"],"senders":["@carol:hs.example"],"limit":7}`, `{"limit":7,"senders":["@carol:hs.example"],"types":["m.room.message","m.room.encrypted","m.room.encryption"]}`, "$2"},
		{`{"not_senders":["@carol:hs.example"],"contains_url":false}`, `{"not_senders":["@carol:hs.example"]}`, "$0 $1 $3 $5"},
		{`{"contains_url":true}`, `{}`, ""},
		{`{"related_by_rel_types":["m.thread"],"org.matrix.msc3874.not_rel_types":["m.thread"]}`, `{"org.matrix.msc3874.not_rel_types":["m.thread"],"related_by_rel_types":["m.thread"]}`, "$0 $1 $2 $3 $5"},
	} {
		for _, dendrite := range []bool{false, true} {
			w := newPageWorld(t, &historyServer{events: events, dendrite: dendrite})
			got := w.messages(encryptedRoom.String(), "dir=b&limit=100", tt.filter)
			if got.ids() != tt.want {
				t.Errorf("%s (Dendrite: %v): got %s", tt.filter, dendrite, got.raw)
			}
			if up := w.hs.asked[0].Get("filter"); up != tt.up {
				t.Errorf("%s went up as %s", tt.filter, up)
			}
		}
	}
}

// A file is what a client calls an event with a URL, also one whose URL stands in the
// encrypted content only.
func TestFilterOfAPageFindsFiles(t *testing.T) {
	t.Parallel()
	w := newPageWorld(t, &historyServer{events: []map[string]any{
		sealedEvent(0, "@bob:hs.example", "file:mxc://hs.example/a"), sealedEvent(1, "@bob:hs.example", "url:mxc://hs.example/b"), sealedEvent(2, "@bob:hs.example", "text"),
	}})
	for filter, want := range map[string]string{`{"contains_url":true}`: "$0 $1", `{"contains_url":false}`: "$2", `{}`: "$0 $1 $2"} {
		if got := w.messages(encryptedRoom.String(), "dir=b&limit=100", filter); got.ids() != want {
			t.Errorf("%s: got %s", filter, got.raw)
		}
	}
}

// A page of which the filter leaves nothing is not shown as long as one behind it may show
// something: that page comes instead, with the token of the page behind it. No event is lost
// and none comes twice for a client that goes on until there is no token; it ends on Dendrite
// as on Synapse, and at every limit.
func TestPagesThatBecomeEmpty(t *testing.T) {
	t.Parallel()
	var events []map[string]any
	var want []string
	for i := range 150 {
		switch {
		case i%37 == 5 || i == 149:
			events, want = append(events, sealedEvent(i, "@bob:hs.example", "url:mxc://hs.example/b")), append(want, fmt.Sprint("$", i))
		case i%3 == 0 || i > 60 && i < 110:
			events = append(events, topicEvent(i))
		default:
			events = append(events, sealedEvent(i, "@bob:hs.example", "text"))
		}
	}
	for _, dendrite := range []bool{false, true} {
		for _, limit := range []int{1, 2, 7, 1000} {
			w := newPageWorld(t, &historyServer{events: events, dendrite: dendrite})
			from, calls := "", 0
			var got []string
			for ; calls < 200; calls++ {
				page := w.messages(encryptedRoom.String(), fmt.Sprintf("dir=b&limit=%d%s", limit, from), `{"types":["m.room.message"],"contains_url":true}`)
				if ids := page.ids(); ids != "" {
					got = append(got, strings.Split(ids, " ")...)
				}
				if from = "&from=" + page.End; page.End == "" {
					break
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("limit %d (Dendrite: %v): got %v after %d calls, want %v", limit, dendrite, got, calls, want)
			}
			if asked := len(w.hs.asked); asked > (calls+1)*maxFollowed {
				t.Errorf("limit %d: %d requests for %d calls", limit, asked, calls)
			}
		}
	}
}

// What is asked of the homeserver for one request is bounded, and the page that it ends with
// has a token, with which the client goes on.
func TestEmptyPagesAreFollowedWithinBounds(t *testing.T) {
	t.Parallel()
	var events []map[string]any
	for i := range 1000 {
		events = append(events, sealedEvent(i, "@bob:hs.example", "text"))
	}
	w := newPageWorld(t, &historyServer{events: events})
	got := w.messages(encryptedRoom.String(), "dir=b&limit=5&from=t10", `{"contains_url":true,"lazy_load_members":true}`)
	if len(got.Chunk) > 0 || got.End != "t60" || len(w.hs.asked) != maxFollowed {
		t.Errorf("%d requests, got %s", len(w.hs.asked), got.raw)
	}
	for i, q := range w.hs.asked { // a page that is shown after others must bring all its members
		want := `{"include_redundant_members":true,"lazy_load_members":true}`
		if i == 0 {
			want = `{"lazy_load_members":true}`
		}
		if q.Get("filter") != want || q.Get("from") != fmt.Sprint("t", 10+5*i) || q.Get("limit") != "5" {
			t.Errorf("request %d: %v", i, q)
		}
	}
	// Nothing can pass these, so nothing is looked for.
	for _, filter := range []string{`{"types":[]}`, `{"not_types":["*"]}`, `{"senders":[]}`} {
		w := newPageWorld(t, &historyServer{events: events})
		if got := w.messages(encryptedRoom.String(), "dir=b&limit=5", filter); len(got.Chunk) > 0 || len(w.hs.asked) != 1 {
			t.Errorf("%s: %d requests, got %s", filter, len(w.hs.asked), got.raw)
		}
	}
}

// A homeserver that gives the token of the same page again, or of the one before it, with or
// without events: a client that goes on until there is no token would go round for ever. Such a
// token does not reach it.
func TestTokensThatLeadBack(t *testing.T) {
	t.Parallel()
	sealed := []map[string]any{sealedEvent(0, "@bob:hs.example", "text"), sealedEvent(1, "@bob:hs.example", "text")}
	for _, filter := range []string{"", `{"contains_url":true}`, `{"contains_url":false}`} {
		hs := &historyServer{events: sealed, again: func(int) string { return "t0" }}
		w := newPageWorld(t, hs)
		got := w.messages(encryptedRoom.String(), "dir=b&limit=1&from=t0", filter)
		if got.End != "" || len(hs.asked) > 2 {
			t.Errorf("%q: %d requests, got %s", filter, len(hs.asked), got.raw)
		}
	}
	// Two pages that lead to each other, and nothing of them is shown.
	hs := &historyServer{events: sealed, again: func(n int) string { return []string{"t0", "t1"}[n%2] }}
	w := newPageWorld(t, hs)
	from, calls := "t0", 0
	for ; from != "" && calls < 10; calls++ {
		from = w.messages(encryptedRoom.String(), "dir=b&limit=1&from="+from, `{"contains_url":true}`).End
	}
	if calls > 2 {
		t.Error("the client goes round")
	}
	hs = &historyServer{events: sealed, again: func(int) string { return "t1" }}
	w = newPageWorld(t, hs)
	got := w.get(call{
		handler: Relations, version: "v1", pattern: "/rooms/{roomId}/relations/{eventId}", query: "from=t1",
		params: map[string]string{"roomId": encryptedRoom.String(), "eventId": "$e"},
	})
	if got.Next != "" || !json.Valid([]byte(got.raw)) {
		t.Errorf("got %s", got.raw)
	}
}

// A filter that cannot be read strictly is refused, and never a wide one; so is a filter by its
// ID, which no homeserver takes there.
func TestFilterOfAPageThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{`{`, `[]`, `7`, `"a"`, `{"types":"m.room.message"}`, `{"types":[],"types":["a"]}`, `{"senders":[5]}`, `{"contains_url":"yes"}`, `{"x":"` + strings.Repeat("y", 70_000) + `"}`} {
		for _, room := range []string{encryptedRoom.String(), plainRoom.String()} {
			w := newPageWorld(t, &historyServer{})
			if got := w.messages(room, "dir=b", filter); got.other != http.StatusBadRequest || len(w.hs.asked) > 0 {
				t.Errorf("%.40s: %d %s, %v", filter, got.other, got.raw, w.hs.asked)
			}
		}
	}
}

// In a room without encryption, and without a filter, the request goes up as it came; where it
// cannot be found out, the filter is widened.
func TestFilterOfAPageOfAnotherRoom(t *testing.T) {
	t.Parallel()
	const filter = `{"types":["m.room.message"],"contains_url":true}`
	for room, wide := range map[string]bool{plainRoom.String(): false, unknownRoom.String(): true, unsupportedRoom.String(): true} {
		w := newPageWorld(t, &historyServer{events: []map[string]any{{"type": "m.room.message", "event_id": "$0", "content": map[string]any{"url": "x"}}}})
		got := w.messages(room, "dir=b", filter)
		if up := w.hs.asked[0].Get("filter"); (up != filter) != wide || got.ids() != "$0" {
			t.Errorf("%s: %s went up, got %s", room, up, got.raw)
		}
	}
	w := newReadWorld(t, e2ee.ModeForeign)
	hs := &historyServer{events: []map[string]any{sealedEvent(0, "@bob:hs.example", "text")}}
	w.w.up.respond, w.w.replaced = hs.answer, readDevices{dev: w.dev}
	(&pageWorld{w, hs}).messages(encryptedRoom.String(), "dir=b", `{"types":"nonsense"}`)
	if len(hs.asked) != 1 || hs.asked[0].Get("filter") != `{"types":"nonsense"}` {
		t.Errorf("a client with keys of its own asked %v", hs.asked)
	}
}

// The homeserver's refusal is the answer; if it comes for a page behind an empty one, the client
// gets the empty one and its token.
func TestPagesThatAreRefused(t *testing.T) {
	t.Parallel()
	hs := &historyServer{}
	for i := range 20 {
		hs.events = append(hs.events, sealedEvent(i, "@bob:hs.example", "text"))
	}
	for at, want := range map[int]pageOf{1: {other: http.StatusForbidden}, 3: {End: "t4"}} {
		w := newPageWorld(t, hs)
		n := 0
		w.w.up.respond = func(s seen) (int, string) {
			if n++; n == at {
				return http.StatusForbidden, `{"errcode":"M_FORBIDDEN"}`
			}
			return hs.answer(s)
		}
		if got := w.messages(encryptedRoom.String(), "dir=b&limit=2", `{"contains_url":true}`); got.other != want.other || got.End != want.End || n != at {
			t.Errorf("refused at %d: %d requests, %d %s", at, n, got.other, got.raw)
		}
	}
}

// The filter of GET context is about what stands around an event and the state, and not about
// the event.
func TestFilterOfAContext(t *testing.T) {
	t.Parallel()
	w := newReadWorld(t, e2ee.ModeProxied)
	body, err := json.Marshal(map[string]any{
		"start": "s", "end": "e",
		"events_before": []any{sealedEvent(1, "@bob:hs.example", "text"), topicEvent(2)},
		"event":         sealedEvent(3, "@bob:hs.example", "url:mxc://hs.example/a"),
		"events_after":  []any{topicEvent(4), sealedEvent(5, "@carol:hs.example", "text"), sealedEvent(6, "@bob:hs.example", "text")},
		"state":         []any{topicEvent(7), map[string]any{"type": "m.room.name", "state_key": "", "sender": "@carol:hs.example", "event_id": "$8"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := w.read(EventContext, "limit=10&filter="+url.QueryEscape(`{"types":["m.room.message","m.room.name"],"not_senders":["@carol:hs.example"],"contains_url":false}`), string(body))
	for id, shown := range map[string]bool{"$1": true, "$2": false, "$3": true, "$4": false, "$5": false, "$6": true, "$7": false, "$8": false} {
		if strings.Contains(got, `"event_id":"`+id+`"`) != shown {
			t.Errorf("%s is shown: %v, in %s", id, !shown, got)
		}
	}
	if up := w.w.up.requests(); len(up) != 1 || !strings.Contains(up[0].query, url.QueryEscape(`"m.room.encrypted"`)) || !strings.Contains(up[0].query, "limit=10") {
		t.Errorf("went up: %+v", up)
	}
	if !strings.Contains(got, `"start":"s"`) || !strings.Contains(got, `"end":"e"`) {
		t.Errorf("got %s", got)
	}
}

// GET relations with an event type: the homeserver knows encrypted events by that type only
// (Synapse and Dendrite compare the outer type). It is asked without one, page by page, and the
// clear type decides.
func TestRelationsByTheirClearType(t *testing.T) {
	t.Parallel()
	const asked, wide = "/_matrix/client/v1/rooms/%21encrypted:hs.example/relations/$e/m.thread/m.sticker", "/_matrix/client/v1/rooms/%21encrypted:hs.example/relations/$e/m.thread"
	events := []map[string]any{sealedEvent(0, "@bob:hs.example", "text"), sealedEvent(1, "@bob:hs.example", "type:m.sticker"), sealedEvent(2, "@bob:hs.example", "text")}
	for i := 3; i < 9; i++ {
		events = append(events, sealedEvent(i, "@bob:hs.example", "text"))
	}
	events = append(events, map[string]any{"type": "m.sticker", "event_id": "$9", "sender": "@bob:hs.example", "content": map[string]any{"body": "in clear"}}, sealedEvent(10, "@bob:hs.example", "type:m.sticker*"))
	hs := &historyServer{events: events}
	w := newPageWorld(t, hs)
	relations := func(room, kind, query string) pageOf {
		return w.get(call{
			handler: Relations, version: "v1", pattern: "/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}", query: query,
			params: map[string]string{"roomId": room, "eventId": "$e", "relType": "m.thread", "eventType": kind},
		})
	}
	var got []string
	from, calls := "", 0
	for ; calls < 20; calls++ {
		page := relations(encryptedRoom.String(), "m.sticker", "limit=2"+from)
		if ids := page.ids(); ids != "" {
			got = append(got, ids)
		}
		if from = "&from=" + page.Next; page.Next == "" {
			break
		}
	}
	if strings.Join(got, " ") != "$1 $9" {
		t.Errorf("got %v", got)
	}
	for _, path := range hs.paths {
		if path != wide {
			t.Errorf("asked for %s", path)
		}
	}
	hs.paths = nil
	if page := relations(encryptedRoom.String(), "m.stick*", "limit=100"); page.ids() != "" {
		t.Errorf("a type with a * in it: %s", page.raw)
	}
	hs.paths = nil
	_ = relations(plainRoom.String(), "m.sticker", "limit=100")
	_ = relations(encryptedRoom.String(), "m.room.encrypted", "limit=100")
	if want := strings.Replace(asked, "encrypted", "plain", 1); len(hs.paths) != 2 || hs.paths[0] != want || hs.paths[1] != strings.Replace(asked, "m.sticker", "m.room.encrypted", 1) {
		t.Errorf("asked for %v", hs.paths)
	}
}
