package interceptors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// indexDevice is a device whose account has an index of messages, the best and newest first.
type indexDevice struct {
	*readDevice
	hits    []e2ee.SearchHit
	state   e2ee.SearchState
	err     error
	queries []e2ee.SearchQuery
}

func (d *indexDevice) Searches() bool { return true }

func (d *indexDevice) Search(_ context.Context, q e2ee.SearchQuery) (e2ee.SearchResult, error) {
	d.queries = append(d.queries, q)
	rest := d.hits
	if q.After != nil {
		at := slices.IndexFunc(rest, func(h e2ee.SearchHit) bool { return h.Position == *q.After })
		rest = rest[at+1:]
	}
	return e2ee.SearchResult{Hits: rest[:min(len(rest), q.Limit)], Count: len(d.hits), State: d.state}, d.err
}

// hit returns a hit whose number is its time, and the lower it is the better.
func hit(n int) e2ee.SearchHit {
	return e2ee.SearchHit{
		Room: encryptedRoom, Event: id.EventID(fmt.Sprintf("$own%d", n)), Rank: 1 - float64(n)/100,
		Position: e2ee.SearchPosition{At: int64(n), Event: uint64(n)},
	}
}

// sealedText is an event of the encrypted room as the homeserver shows it; the text takes
// the place of the ciphertext.
func sealedText(event, text, more string) string {
	return `{"type":"m.room.encrypted","event_id":"` + event + `","room_id":"` + encryptedRoom.String() +
		`","sender":"@bob:hs","origin_server_ts":5,"content":{"ciphertext":"` + text + `"}` + more + `}`
}

// indexWorld returns a world with an index, in which the homeserver has a message with the
// term for every hit.
func indexWorld(t *testing.T, hits ...e2ee.SearchHit) (*world, *indexDevice) {
	t.Helper()
	w := newWorld(t, e2ee.ModeProxied)
	w.dev.rooms[otherPlainRoom] = e2ee.RoomPlain
	dev := &indexDevice{
		readDevice: &readDevice{fakeDevice: w.dev}, hits: hits,
		state: e2ee.SearchState{Messages: 9, Rooms: map[id.RoomID]bool{encryptedRoom: true}},
	}
	w.replaced = readDevices{w.devices, dev}
	w.up.respond = func(s seen) (int, string) {
		_, event, ok := strings.Cut(s.path, "/context/")
		if !ok {
			t.Errorf("the homeserver is asked %+v", s)
		}
		return 200, `{"start":"s","end":"e","event":` + sealedText(event, canary, "") + `,"events_before":[` + sealedText("$before", "b", "") +
			`],"events_after":[` + sealedText("$after", "a", "") + `],"state":[{"type":"m.room.member","state_key":"@bob:hs","content":{"displayname":"Bob"}}]}`
	}
	return w, dev
}

// inRooms returns a search in the encrypted room and, if plain, in a plain one.
func searchIn(plain bool, more string) call {
	rooms := `"` + encryptedRoom.String() + `"`
	if plain {
		rooms += `,"` + plainRoom.String() + `"`
	}
	if more != "" {
		more = "," + more
	}
	return searchCall(`,"filter":{"rooms":[` + rooms + `]` + more + `}`)
}

// resultsOf returns the IDs of what was found, and the token of the next page.
func resultsOf(t *testing.T, body string) (events []string, next string) {
	t.Helper()
	var answer struct {
		Categories struct {
			Events struct {
				Next string `json:"next_batch"`
			} `json:"room_events"`
		} `json:"search_categories"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	_, events, _, _ = found(t, body)
	return events, answer.Categories.Events.Next
}

// Attack vector: a homeserver wants to know what somebody looks for in encrypted rooms. It is
// asked for the events that were found, and never learns the term; what it gives out is
// opened and judged like everything else, and shown only if it is what was looked for.
func TestSearchTermStaysHere(t *testing.T) {
	t.Parallel()
	w, dev := indexWorld(t, hit(3), hit(2), hit(1))
	rec, err := w.do(searchIn(false, ""))
	if err != nil || rec.Code != http.StatusOK {
		t.Fatalf("got %d %v", rec.Code, err)
	}
	if events, next := resultsOf(t, rec.Body.String()); !slices.Equal(events, []string{"$own3", "$own2", "$own1"}) && !slices.Equal(events, []string{"$own1", "$own2", "$own3"}) || next != "" {
		t.Errorf("found %v, next %q", events, next)
	}
	for _, s := range w.up.requests() {
		if strings.Contains(s.body+s.query+s.path, canary) || strings.HasSuffix(s.path, "/search") {
			t.Errorf("the homeserver got %+v", s)
		}
	}
	if body := rec.Body.String(); !strings.Contains(body, `"decrypted":true`) || strings.Contains(body, "ciphertext") || !strings.Contains(body, `"dev.e2ee-proxy.search_index":{"messages":9,`) {
		t.Errorf("the answer is %s", body)
	}
	if q := dev.queries[0]; !slices.Equal(q.Rooms, []id.RoomID{encryptedRoom}) || q.Limit != defaultFound || len(q.Keys) != 3 || q.Recent {
		t.Errorf("the index is asked %+v", q)
	}
}

// The homeserver lies about what was found, or does not give it out: another event, another
// room, another text, an edit by somebody else, nothing. None of that is a result.
func TestSearchResultsAreChecked(t *testing.T) {
	t.Parallel()
	edited := hit(1)
	edited.Source = "$edit"
	event := func(e string) string { return `{"event":` + e + `}` }
	bundle := func(sender, of, text string) string {
		return `,"unsigned":{"m.relations":{"m.replace":{"type":"m.room.encrypted","event_id":"$edit","sender":"` + sender +
			`","content":{"ciphertext":{"type":"m.room.message","content":{"body":"*","m.new_content":{"body":"` + text +
			`"}}},"m.relates_to":{"rel_type":"m.replace","event_id":"` + of + `"}}}}}`
	}
	for name, tt := range map[string]struct {
		hit     e2ee.SearchHit
		status  int
		answer  string
		found   bool
		missing bool
	}{
		"as it is":            {hit(1), 200, event(sealedText("$own1", canary, "")), true, false},
		"another text":        {hit(1), 200, event(sealedText("$own1", "redacted since", "")), false, false},
		"held back":           {hit(1), 200, event(sealedText("$own1", "hidden", "")), false, false},
		"another event":       {hit(1), 200, event(sealedText("$own2", canary, "")), false, true},
		"another room":        {hit(1), 200, event(strings.Replace(sealedText("$own1", canary, ""), encryptedRoom.String(), "!x:hs", 1)), false, true},
		"no room":             {hit(1), 200, event(strings.Replace(sealedText("$own1", canary, ""), `"room_id":"`+encryptedRoom.String()+`",`, "", 1)), true, false},
		"not JSON":            {hit(1), 200, `{`, false, true},
		"no event":            {hit(1), 200, `{"event":7}`, false, true},
		"gone":                {hit(1), 404, `{"errcode":"M_NOT_FOUND","error":"x"}`, false, false},
		"forbidden":           {hit(1), 403, `{"errcode":"M_FORBIDDEN","error":"x"}`, false, false},
		"broken":              {hit(1), 500, `{"errcode":"M_UNKNOWN","error":"x"}`, false, true},
		"edited":              {edited, 200, event(sealedText("$own1", "typo", bundle("@bob:hs", "$own1", canary))), true, false},
		"edited by another":   {edited, 200, event(sealedText("$own1", "typo", bundle("@eve:hs", "$own1", canary))), false, false},
		"edit of another":     {edited, 200, event(sealedText("$own1", "typo", bundle("@bob:hs", "$own2", canary))), false, false},
		"edited to other":     {edited, 200, event(sealedText("$own1", canary, bundle("@bob:hs", "$own1", "other"))), false, false},
		"edit is not shown":   {edited, 200, event(sealedText("$own1", canary, "")), false, false},
		"the user is unheard": {hit(1), 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"x"}`, false, false},
	} {
		w, _ := indexWorld(t, tt.hit)
		w.up.respond = func(s seen) (int, string) {
			if strings.Contains(s.path, "/event/") {
				return 404, `{"errcode":"M_NOT_FOUND","error":"x"}`
			}
			return tt.status, tt.answer
		}
		rec, err := w.do(searchIn(false, ""))
		if tt.status == http.StatusUnauthorized {
			wantError(t, err, http.StatusUnauthorized, apierr.CodeUnknownToken)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if events, _ := resultsOf(t, rec.Body.String()); (len(events) == 1) != tt.found || strings.Contains(rec.Body.String(), `"missing":1`) != tt.missing {
			t.Errorf("%s: %s", name, rec.Body)
		}
	}
}

// What both sides found is one list, in order, page by page, without a gap or a result twice,
// whatever the pages of the homeserver are.
func TestSearchResultsAreMerged(t *testing.T) {
	t.Parallel()
	for _, recent := range []bool{true, false} {
		for _, limit := range []int{1, 2, 3, 100} {
			for theirs := 1; theirs <= 4; theirs++ {
				var hits []e2ee.SearchHit
				var want []string
				for n := 20; n > 0; n-- {
					at := n
					if !recent {
						at = 21 - n
					}
					if at%3 == 0 {
						hits = append(hits, hit(at))
						want = append(want, fmt.Sprintf("$own%d", at))
					} else {
						want = append(want, fmt.Sprintf("$their%d", at))
					}
				}
				w, _ := indexWorld(t, hits...)
				own := w.up.respond
				w.up.respond = func(s seen) (int, string) {
					if strings.HasSuffix(s.path, "/search") {
						return 200, theirPage(want, s.query, theirs)
					}
					return own(s)
				}
				order := `"order_by":"rank"`
				if recent {
					order = `"order_by":"recent"`
				}
				c := searchIn(true, fmt.Sprintf(`"limit":%d`, limit))
				c.body = strings.Replace(c.body, `"filter"`, order+`,"filter"`, 1)
				var got []string
				for range 100 {
					rec, err := w.do(c)
					if err != nil {
						t.Fatal(err)
					}
					events, next := resultsOf(t, rec.Body.String())
					if len(events) > limit || len(events) == 0 && next != "" {
						t.Errorf("a page of %d results, next %q", len(events), next)
					}
					got = append(got, events...)
					if c.query = "next_batch=" + next; next == "" {
						break
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("recent %t, limit %d, %d of theirs: got %v, want %v", recent, limit, theirs, got, want)
				}
			}
		}
	}
}

// theirPage is a page of size results of the homeserver; its tokens are numbers.
func theirPage(all []string, query string, size int) string {
	all = slices.DeleteFunc(slices.Clone(all), func(e string) bool { return strings.HasPrefix(e, "$own") })
	from := 0
	_, _ = fmt.Sscanf(query, "next_batch=%d", &from)
	var results []string
	for _, e := range all[from:min(from+size, len(all))] {
		n := 0
		_, _ = fmt.Sscanf(e, "$their%d", &n)
		results = append(results, fmt.Sprintf(`{"rank":%f,"result":{"type":"m.room.message","event_id":%q,"room_id":%q,"sender":"@carol:hs","origin_server_ts":%d,"content":{"body":"x"}}}`,
			1-float64(n)/100, e, plainRoom, n))
	}
	next := ""
	if from += size; from < len(all) {
		next = fmt.Sprintf(`,"next_batch":"%d"`, from)
	}
	return `{"search_categories":{"room_events":{"count":13,"highlights":["x"],"results":[` + strings.Join(results, ",") + `]` + next + `}}}`
}

// Where the homeserver does not search, what the index found is shown all the same, and the
// answer names the rooms in which nothing was searched; only what is about the client's token
// or its pace is the homeserver's own.
func TestSearchWithoutTheHomeservers(t *testing.T) {
	t.Parallel()
	for status, code := range map[int]string{501: "M_UNRECOGNIZED", 404: "M_UNRECOGNIZED", 500: "M_UNKNOWN", 400: "M_UNKNOWN", 429: apierr.CodeLimitExceeded, 401: apierr.CodeUnknownToken} {
		w, _ := indexWorld(t, hit(1))
		own := w.up.respond
		w.up.respond = func(s seen) (int, string) {
			if strings.HasSuffix(s.path, "/search") {
				return status, `{"errcode":"` + code + `","error":"no search"}`
			}
			return own(s)
		}
		rec, err := w.do(searchIn(true, ""))
		if status == 429 || status == 401 {
			wantError(t, err, status, code)
			continue
		}
		if err != nil || rec.Code != http.StatusOK {
			t.Errorf("%d: got %d %v", status, rec.Code, err)
			continue
		}
		_, events, leftOut, text := found(t, rec.Body.String())
		if !slices.Equal(events, []string{searchNoticeID, "$own1"}) || !slices.Equal(leftOut, []string{plainRoom.String()}) || !strings.Contains(text, fmt.Sprint(status)) {
			t.Errorf("%d: %s", status, rec.Body)
		}
	}
	w, dev := indexWorld(t)
	w.up.respond = func(seen) (int, string) { return 200, `[` }
	_, err := w.do(searchIn(true, ""))
	wantError(t, err, http.StatusBadGateway, apierr.CodeUnknown)
	dev.err = errors.New("the database is down")
	if _, err = w.do(searchIn(false, "")); err == nil {
		t.Error("an index that cannot be read is no error")
	}
}

// People and programs are told when an index that was lost is being filled again, and which
// rooms it has nothing of.
func TestSearchSaysWhatItLacks(t *testing.T) {
	t.Parallel()
	w, dev := indexWorld(t, hit(1))
	dev.state.Refilling = true
	rec, err := w.do(searchIn(false, ""))
	if err != nil {
		t.Fatal(err)
	}
	if body := rec.Body.String(); !strings.Contains(body, `"refilling":true`) || !strings.Contains(body, textRefilling) || !strings.Contains(body, searchNoticeID) || !strings.Contains(body, `"count":2`) {
		t.Errorf("the answer is %s", body)
	}
	dev.state.Refilling, dev.state.Rooms, dev.hits = false, nil, nil
	if rec, err = w.do(searchIn(false, "")); err != nil {
		t.Fatal(err)
	}
	if _, events, leftOut, text := found(t, rec.Body.String()); !slices.Equal(events, []string{searchNoticeID}) || !slices.Equal(leftOut, []string{encryptedRoom.String()}) || !strings.Contains(text, "1 room was not searched") {
		t.Errorf("the answer is %s", rec.Body)
	}
	dev.state.Rooms = map[id.RoomID]bool{encryptedRoom: true}
	if rec, err = w.do(searchIn(false, "")); err != nil || strings.Contains(rec.Body.String(), searchNoticeID) || strings.Contains(rec.Body.String(), nameNotSearched) {
		t.Errorf("without anything to say: %s %v", rec.Body, err)
	}
}

// The rest of what a client can ask for: context, profiles, groups, state and filters.
func TestSearchOptions(t *testing.T) {
	t.Parallel()
	w, dev := indexWorld(t, hit(2), hit(1))
	own := w.up.respond
	w.up.respond = func(s seen) (int, string) {
		if strings.HasSuffix(s.path, "/state") {
			return 200, `[{"type":"m.room.name","state_key":"","content":{"name":"the room"},"sender":"@bob:hs","event_id":"$n"}]`
		}
		return own(s)
	}
	c := searchIn(false, `"senders":["@bob:hs"],"not_senders":["@eve:hs"],"types":["m.room.message"]`)
	c.body = strings.Replace(c.body, `"filter"`, `"keys":["content.body","content.other"],"order_by":"recent","include_state":true,"event_context":{"before_limit":1,"after_limit":0,"include_profile":true},"groupings":{"group_by":[{"key":"sender"},{"key":"room_id"},{"key":"other"}]},"filter"`, 1)
	rec, err := w.do(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"events_after":[]`, `"event_id":"$before"`, `"profile_info":{"@bob:hs":{"displayname":"Bob"}}`, `"start":"s"`, `"highlights":["canary","zq8"]`,
		`"sender":{"@bob:hs":{"results":["$own2","$own1"],"order":0}}`, `"room_id":{"` + encryptedRoom.String() + `"`, `"name":"the room"`, `"count":2`,
	} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("no %s in %s", want, rec.Body)
		}
	}
	if strings.Contains(rec.Body.String(), "$after") {
		t.Errorf("too much context: %s", rec.Body)
	}
	if q := dev.queries[0]; !q.Recent || !slices.Equal(q.Keys, []e2ee.SearchKey{e2ee.SearchBody}) || len(q.Senders) != 1 || len(q.NotSenders) != 1 || !slices.Equal(q.Types, []string{"m.room.message"}) {
		t.Errorf("the index is asked %+v", q)
	}
	for filter, want := range map[string]int{
		`"types":["m.room.*"]`: 2, `"types":["m.stick*"]`: 0, `"not_types":["*message"]`: 0, `"types":["m.room.[a-z]*"]`: 0, `"contains_url":true`: 0, `"contains_url":false`: 2, `"limit":0`: 1,
	} {
		rec, err := w.do(searchIn(false, filter))
		if err != nil {
			t.Fatal(err)
		}
		if events, _ := resultsOf(t, rec.Body.String()); len(events) != want {
			t.Errorf("%s: found %v", filter, events)
		}
	}
	for _, query := range []string{"next_batch=e2ee-proxy.x", "next_batch=e2ee-proxy.e30x", "next_batch=e2ee-proxy." + strings.Repeat("A", 5000)} {
		c := searchIn(false, "")
		c.query = query
		_, err := w.do(c)
		wantError(t, err, http.StatusBadRequest, apierr.CodeInvalidParam)
	}
	c = searchIn(false, `"types":7`)
	_, err = w.do(c)
	wantError(t, err, http.StatusBadRequest, apierr.CodeBadJSON)
}
