package interceptors

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

const (
	otherPlainRoom = id.RoomID("!plain2:hs.example")
	leftOutNotice  = `{"context":{"events_after":[],"events_before":[],"profile_info":{}},"rank":1,"result":{`
)

// searchWorld returns a world in which alice is in some rooms, and the homeserver finds
// something.
func searchWorld(t *testing.T, mode e2ee.Mode, joined ...id.RoomID) *world {
	t.Helper()
	w := newWorld(t, mode)
	w.dev.rooms[otherPlainRoom] = e2ee.RoomPlain
	raw, err := json.Marshal(map[string]any{"joined_rooms": joined})
	if err != nil {
		t.Fatal(err)
	}
	w.up.respond = func(s seen) (int, string) {
		if strings.HasSuffix(s.path, "/joined_rooms") {
			return 200, string(raw)
		}
		return 200, `{"search_categories":{"room_events":{"count":7,"highlights":["` + canary + `"],"results":[{"rank":2,"result":{"event_id":"$e"}}],"next_batch":"n"}}}`
	}
	return w
}

func searchCall(more string) call {
	return call{handler: Search, method: http.MethodPost, pattern: "/search", query: "", body: `{"search_categories":{"room_events":{"search_term":"` + canary + `"` + more + `}}}`}
}

// searched returns the filter of the search that the homeserver got, nil when it got none.
func (w *world) searched() map[string]any {
	w.t.Helper()
	var filter map[string]any
	for _, s := range w.up.requests() {
		if strings.HasSuffix(s.path, "/joined_rooms") {
			if s.body != "" {
				w.t.Errorf("the question for rooms has the body %s", s.body)
			}
			continue
		}
		var body struct {
			Categories map[string]map[string]json.RawMessage `json:"search_categories"`
		}
		if err := json.Unmarshal([]byte(s.body), &body); err != nil || len(body.Categories) != 1 || !strings.HasSuffix(s.path, "/search") {
			w.t.Fatalf("the homeserver got %+v (%v)", s, err)
		}
		if got := string(body.Categories["room_events"]["search_term"]); got != `"`+canary+`"` {
			w.t.Errorf("the homeserver looks for %s", got)
		}
		if err := json.Unmarshal(body.Categories["room_events"]["filter"], &filter); err != nil {
			w.t.Fatal(err)
		}
	}
	return filter
}

// found returns the results in an answer: their count, the event IDs, and the rooms left out.
func found(t *testing.T, body string) (count int, events []string, leftOut []string, text string) {
	t.Helper()
	var answer struct {
		Categories struct {
			Events struct {
				Count   int `json:"count"`
				Results []struct {
					Result struct {
						ID      string    `json:"event_id"`
						Room    string    `json:"room_id"`
						Sender  id.UserID `json:"sender"`
						Type    string    `json:"type"`
						Content struct{ Body string }
					} `json:"result"`
				} `json:"results"`
				LeftOut struct {
					Count   int      `json:"count"`
					Rooms   []string `json:"rooms"`
					Message string   `json:"message"`
				} `json:"dev.e2ee-proxy.not_searched"`
			} `json:"room_events"`
		} `json:"search_categories"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	in := &answer.Categories.Events
	for _, r := range in.Results {
		events = append(events, r.Result.ID)
		if r.Result.ID == searchNoticeID && (r.Result.Room != in.LeftOut.Rooms[0] || r.Result.Sender != e2ee.NoticeSender || r.Result.Type != typeMessage || r.Result.Content.Body != in.LeftOut.Message) {
			t.Errorf("the notice is %+v", r.Result)
		}
	}
	if in.LeftOut.Count != len(in.LeftOut.Rooms) {
		t.Errorf("%d rooms are left out, and %d named", in.LeftOut.Count, len(in.LeftOut.Rooms))
	}
	return in.Count, events, in.LeftOut.Rooms, in.LeftOut.Message
}

// Attack vector: somebody searches in a client that knows nothing of encryption. The
// homeserver finds nothing in encrypted rooms, and learns what the person looks for there.
//
// Expected: the homeserver is asked about rooms that are known to be plain and no others,
// whether the client names rooms or not; when there is none, it is not asked. The answer
// says in its results that rooms were left out, and is otherwise the homeserver's.
func TestSearchInPlainRoomsOnly(t *testing.T) {
	t.Parallel()
	all := []id.RoomID{encryptedRoom, plainRoom, unknownRoom, otherPlainRoom, unsupportedRoom}
	for _, tt := range []struct {
		name    string
		joined  []id.RoomID
		more    string
		mode    e2ee.Mode
		asked   []id.RoomID
		leftOut []id.RoomID
	}{
		{"everywhere", all, ``, e2ee.ModeProxied, []id.RoomID{plainRoom, otherPlainRoom}, []id.RoomID{encryptedRoom, unknownRoom, unsupportedRoom}},
		{"with a filter that is null", all, `,"filter":null`, e2ee.ModeProxied, []id.RoomID{plainRoom, otherPlainRoom}, []id.RoomID{encryptedRoom, unknownRoom, unsupportedRoom}},
		{"with rooms that are null", all, `,"filter":{"rooms":null,"limit":3}`, e2ee.ModeProxied, []id.RoomID{plainRoom, otherPlainRoom}, []id.RoomID{encryptedRoom, unknownRoom, unsupportedRoom}},
		{"but for one", all, `,"filter":{"not_rooms":["` + plainRoom.String() + `","` + encryptedRoom.String() + `"]}`, e2ee.ModeProxied, []id.RoomID{otherPlainRoom}, []id.RoomID{unknownRoom, unsupportedRoom}},
		{"in two rooms", nil, `,"filter":{"rooms":["` + plainRoom.String() + `","` + encryptedRoom.String() + `","` + plainRoom.String() + `"]}`, e2ee.ModeProxied, []id.RoomID{plainRoom}, []id.RoomID{encryptedRoom}},
		{"in plain rooms", nil, `,"filter":{"rooms":["` + plainRoom.String() + `"],"limit":5}`, e2ee.ModeProxied, []id.RoomID{plainRoom}, nil},
		{"in an encrypted room", nil, `,"filter":{"rooms":["` + encryptedRoom.String() + `"]}`, e2ee.ModeProxied, nil, []id.RoomID{encryptedRoom}},
		{"in a room of which nothing is known", nil, `,"filter":{"rooms":["` + unknownRoom.String() + `"]}`, e2ee.ModeProxied, nil, []id.RoomID{unknownRoom}},
		{"in what is no room", nil, `,"filter":{"rooms":["#alias:hs"]}`, e2ee.ModeProxied, nil, []id.RoomID{"#alias:hs"}},
		{"in no room", all, `,"filter":{"rooms":[]}`, e2ee.ModeProxied, nil, nil},
		{"by somebody without rooms", nil, ``, e2ee.ModeProxied, nil, nil},
		{"without a device", []id.RoomID{encryptedRoom, plainRoom, unknownRoom}, ``, e2ee.ModeNone, []id.RoomID{plainRoom}, []id.RoomID{encryptedRoom, unknownRoom}},
		{"by a device with lost keys", all, ``, e2ee.ModeLost, []id.RoomID{plainRoom, otherPlainRoom}, []id.RoomID{encryptedRoom, unknownRoom, unsupportedRoom}},
		{"by a device that is not known yet", all, ``, e2ee.ModeUnknown, []id.RoomID{plainRoom, otherPlainRoom}, []id.RoomID{encryptedRoom, unknownRoom, unsupportedRoom}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := searchWorld(t, tt.mode, tt.joined...)
			rec, err := w.do(searchCall(tt.more))
			if err != nil || rec.Code != http.StatusOK {
				t.Fatalf("got %d %v", rec.Code, err)
			}
			var rooms []id.RoomID
			for _, room := range listOf(w.searched()["rooms"]) {
				rooms = append(rooms, id.RoomID(room))
			}
			if diff := cmp.Diff(tt.asked, rooms); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			count, events, leftOut, text := found(t, rec.Body.String())
			wantEvents, wantCount := []string(nil), 0
			if tt.asked != nil {
				wantEvents, wantCount = []string{"$e"}, 7
			}
			var wantRooms []string
			for _, room := range tt.leftOut {
				wantRooms = append(wantRooms, room.String())
			}
			if tt.leftOut != nil {
				wantEvents, wantCount = append([]string{searchNoticeID}, wantEvents...), wantCount+1
				if !strings.Contains(text, "not searched") {
					t.Errorf("it says %q", text)
				}
			}
			slices.Sort(leftOut)
			slices.Sort(wantRooms)
			if diff := cmp.Diff([]any{wantCount, wantEvents, wantRooms}, []any{count, events, leftOut}); diff != "" {
				t.Errorf("the answer (-want +got):\n%s", diff)
			}
			if strings.Contains(rec.Body.String(), `"next_batch":"n"`) != (tt.asked != nil) {
				t.Errorf("the answer is %s", rec.Body)
			}
		})
	}
}

func listOf(v any) (out []string) {
	list, _ := v.([]any)
	for _, e := range list {
		s, _ := e.(string)
		out = append(out, s)
	}
	return out
}

// A client that encrypts for itself is told for programs only, and searches as it likes if
// policy.native_clear_text says so; later pages are spared the notice; what cannot be read is
// refused before anybody is asked.
func TestSearchExceptions(t *testing.T) {
	t.Parallel()
	for _, joined := range [][]id.RoomID{{encryptedRoom, plainRoom}, {encryptedRoom}} {
		w := searchWorld(t, e2ee.ModeForeign, joined...)
		rec, err := w.do(searchCall(``))
		if err != nil {
			t.Fatal(err)
		}
		if rooms := listOf(w.searched()["rooms"]); slices.Contains(rooms, encryptedRoom.String()) || len(rooms) != len(joined)-1 {
			t.Errorf("of a client with keys of its own the homeserver is asked about %v", rooms)
		}
		if _, events, leftOut, _ := found(t, rec.Body.String()); slices.Contains(events, searchNoticeID) || len(leftOut) != 1 {
			t.Errorf("a client with keys of its own gets %s", rec.Body)
		}
	}
	w := searchWorld(t, e2ee.ModeForeign, encryptedRoom)
	handlers, err := Handlers(Options{NativeClearText: true})
	if err != nil {
		t.Fatal(err)
	}
	w.handlers = handlers
	c := searchCall(`,"groupings":{}`)
	if _, err := w.do(c); err != nil {
		t.Fatal(err)
	}
	if got := w.up.requests(); len(got) != 1 || got[0].body != c.body {
		t.Errorf("of a client with keys of its own the homeserver got %+v", got)
	}

	w = searchWorld(t, e2ee.ModeProxied, encryptedRoom, plainRoom)
	c = searchCall(``)
	c.query = "next_batch=n"
	rec, err := w.do(c)
	if err != nil {
		t.Fatal(err)
	}
	if count, events, leftOut, _ := found(t, rec.Body.String()); count != 7 || len(events) != 1 || len(leftOut) != 1 {
		t.Errorf("a later page is %s", rec.Body)
	}
	if got := w.up.requests(); got[len(got)-1].query != "next_batch=n" {
		t.Errorf("the homeserver got %+v", got)
	}

	for _, joined := range [][]id.RoomID{{encryptedRoom, plainRoom}, {encryptedRoom}} {
		w = searchWorld(t, e2ee.ModeProxied, joined...)
		if w.handlers, err = Handlers(Options{HideNotices: func(id.UserID) bool { return true }}); err != nil {
			t.Fatal(err)
		}
		if rec, err = w.do(searchCall(``)); err != nil {
			t.Fatal(err)
		}
		if _, events, leftOut, _ := found(t, rec.Body.String()); slices.Contains(events, searchNoticeID) || len(leftOut) != 1 {
			t.Errorf("with notices hidden the answer is %s", rec.Body)
		}
	}

	for body, code := range map[string]string{
		`{`: apierr.CodeNotJSON,
		`{"search_categories":{"room_events":{"search_term":"` + canary + `","search_term":"x"}}}`: apierr.CodeBadJSON,
		`{"search_categories":{}}`: apierr.CodeMissingParam,
		`{"search_categories":{"org.example.files":{"search_term":"` + canary + `"}}}`: apierr.CodeMissingParam,
		`{"search_categories":{"room_events":{"filter":[]}}}`:                          apierr.CodeBadJSON,
		`{"search_categories":{"room_events":{"filter":{"rooms":"!a:b"}}}}`:            apierr.CodeBadJSON,
		`{"search_categories":{"room_events":{"filter":{"not_rooms":[7]}}}}`:           apierr.CodeBadJSON,
	} {
		w := searchWorld(t, e2ee.ModeProxied, plainRoom)
		c := searchCall(``)
		c.body = body
		_, err := w.do(c)
		wantError(t, err, http.StatusBadRequest, code)
		w.wantNothingUpstream()
	}

	// Another category could hold words, and goes nowhere.
	w = searchWorld(t, e2ee.ModeProxied, plainRoom)
	c = searchCall(``)
	c.body = `{"search_categories":{"org.example":{"search_term":"` + canary + `"},"room_events":{"search_term":"` + canary + `"}},"org.example":"` + canary + `"}`
	if _, err := w.do(c); err != nil {
		t.Fatal(err)
	}
	w.searched()

	// The answer of a homeserver that cannot search is its own.
	w = searchWorld(t, e2ee.ModeProxied, plainRoom)
	w.up.respond = func(seen) (int, string) { return 501, `{"errcode":"M_UNKNOWN","error":"no search"}` }
	if rec, err := w.do(searchCall(`,"filter":{"rooms":["` + plainRoom.String() + `","` + encryptedRoom.String() + `"]}`)); err != nil || rec.Code != 501 {
		t.Errorf("got %d %v", rec.Code, err)
	}
	for status, answer := range map[int]string{200: `[`, 500: `{}`} {
		w.up.respond = func(seen) (int, string) { return status, answer }
		_, err := w.do(searchCall(``))
		wantError(t, err, http.StatusBadGateway, apierr.CodeUnknown)
	}
	w.dev.lookupErr = fmt.Errorf("look up: %w", &e2ee.UpstreamError{Status: 401, ErrCode: apierr.CodeUnknownToken})
	_, err = w.do(searchCall(`,"filter":{"rooms":["` + plainRoom.String() + `"]}`))
	wantError(t, err, http.StatusUnauthorized, apierr.CodeUnknownToken)
	w.dev.lookupErr = errors.New("cannot tell")
	if rec, err := w.do(searchCall(`,"filter":{"rooms":["` + plainRoom.String() + `"]}`)); err != nil || rec.Code != 200 || !strings.Contains(rec.Body.String(), leftOutNotice) {
		t.Errorf("got %d %s %v", rec.Code, rec.Body, err)
	}
}

// A search through many rooms looks at a bounded number of them.
func TestSearchIsBounded(t *testing.T) {
	t.Parallel()
	var joined []id.RoomID
	for i := range 2 * maxSearched {
		joined = append(joined, id.RoomID(fmt.Sprintf("!room%d:hs", i)))
	}
	w := searchWorld(t, e2ee.ModeProxied, joined...)
	for _, room := range joined {
		w.dev.rooms[room] = e2ee.RoomPlain
	}
	rec, err := w.do(searchCall(``))
	if err != nil {
		t.Fatal(err)
	}
	if rooms := listOf(w.searched()["rooms"]); len(rooms) != maxSearched {
		t.Errorf("%d rooms are searched", len(rooms))
	}
	if _, _, leftOut, text := found(t, rec.Body.String()); len(leftOut) != maxSearched || !strings.Contains(text, "100 rooms") {
		t.Errorf("%d rooms are left out: %q", len(leftOut), text)
	}
}

// Attack vector: somebody sends large messages around each one that has some word. A search for
// it has the proxy hold all of them for a page of 100 results.
//
// Expected: no more is asked for once there is enough, the page ends, and the next one goes on
// behind it.
func TestSearchHoldsLittle(t *testing.T) {
	t.Parallel()
	var hits []e2ee.SearchHit
	for i := range 60 {
		hits = append(hits, hit(i+1))
	}
	w, _ := indexWorld(t, hits...)
	large := `"` + strings.Repeat("x", 1<<20) + `"`
	asked := 0
	var mu sync.Mutex
	w.up.respond = func(s seen) (int, string) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		_, event, _ := strings.Cut(s.path, "/context/")
		return 200, `{"event":` + sealedText(event, canary, "") + `,"events_before":[],"events_after":[],"state":[{"content":` + large + `}]}`
	}
	c := searchIn(false, `"limit":100`)
	var all []string
	for page := 1; ; page++ {
		asked = 0
		rec, err := w.do(c)
		if err != nil {
			t.Fatal(err)
		}
		if most := maxContexts>>20 + searchParallel; asked > most {
			t.Fatalf("page %d: %d answers of a megabyte are held, want %d at most", page, asked, most)
		}
		events, next := resultsOf(t, rec.Body.String())
		if all = append(all, events...); next == "" {
			break
		}
		c.query = "next_batch=" + next
	}
	if len(all) != len(hits) || len(slices.Compact(slices.Sorted(slices.Values(all)))) != len(hits) {
		t.Errorf("%d results, want each of %d once", len(all), len(hits))
	}
}
