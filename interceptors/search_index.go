package interceptors

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/strictjson"
)

// What was said in encrypted rooms is found by the account's own index (package
// e2ee/internal/searchindex). It names events and has no text of theirs, so each is asked of
// the homeserver again, with what stands around it; the homeserver says whether the user may
// still see it, and it is opened, judged and shown like all others. Together with what the
// homeserver found in plain rooms they become one answer, which is rewritten like one of the
// homeserver's.

const (
	// searchTries is how often the index is asked for more, because what it found was not
	// shown after all.
	searchTries = 4
	// maxContext is the largest answer about what stands around one result, in bytes.
	maxContext = 2 << 20
	// maxContexts is the same for all results of a page. Once it is reached the page ends.
	maxContexts = 16 << 20
)

// indexSearch is a search with the index.
type indexSearch struct {
	*searches
	x     *Exchange
	dev   Device
	asked search
	rooms searchedRooms
	from  searchPlace
	note  searchNote
}

// searchResult is a result of the index or of the homeserver.
type searchResult struct {
	raw    jsontext.Value
	rank   float64
	at     int64
	id     string
	room   string
	sender string
	place  e2ee.SearchPosition // in the index
}

// hits are what the index found.
type hits struct {
	results []searchResult
	last    *e2ee.SearchPosition // the last that was looked at
	ended   bool
	count   int
	state   e2ee.SearchState
	missing int // could not be got from the homeserver
}

func (s *indexSearch) serve(next Handler) error {
	own, err := s.hits()
	if err != nil {
		return err
	}
	theirs, failed, err := s.upstream()
	if err != nil {
		return err
	}
	if failed != nil && len(s.note.rooms) == 0 {
		return s.x.RelayAndClose(failed)
	}
	s.note.rooms = slices.Clone(s.rooms.unsure)
	for _, room := range s.rooms.encrypted {
		if !own.state.Rooms[id.RoomID(room)] {
			s.note.rooms = append(s.note.rooms, room)
		}
	}
	if failed != nil {
		_ = failed.Body.Close()
		s.note.rooms = append(s.note.rooms, s.rooms.plain...)
		s.note.status = failed.StatusCode
	}
	s.note.index = &indexNote{state: own.state, missing: own.missing, room: slices.Concat(s.note.rooms, s.rooms.encrypted, []string{""})[0]}
	body, err := s.merge(own, theirs)
	if err != nil {
		return err
	}
	resp := &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: http.NoBody, Request: s.x.Request}
	resp.Header.Set("Content-Type", "application/json")
	resp.Header.Set("Access-Control-Allow-Origin", "*")
	exchange.ReplaceBody(resp, body)
	found := *s.x
	found.Upstream = &foundUpstream{Upstream: &notingUpstream{Upstream: s.x.Upstream, note: &s.note, spools: s.spools}, resp: resp}
	return next(&found)
}

// foundUpstream answers with what was found.
type foundUpstream struct {
	Upstream
	resp *http.Response
}

// Do implements [Upstream].
func (u *foundUpstream) Do(*Exchange, Change) (*http.Response, error) { return u.resp, nil }

// hits asks the index until a page is full, or there is no more.
func (s *indexSearch) hits() (hits, error) {
	out := hits{last: s.from.After, ended: s.from.Ended}
	q := &s.asked.index
	rooms := slices.Concat(s.rooms.encrypted, s.rooms.unsure)
	size := 0
	for range searchTries {
		query := q.in(rooms, out.last)
		if s.from.Ended {
			query.Limit = 0 // for the count
		}
		found, err := s.dev.Search(s.x.Request.Context(), query)
		if err != nil {
			return hits{}, engineerr.For(fmt.Errorf("look in the search index: %w", err))
		}
		out.count, out.state = found.Count, found.State
		if s.from.Ended {
			return out, nil
		}
		shown, err := s.fetch(found.Hits)
		if err != nil {
			return hits{}, err
		}
		for i, r := range shown {
			if len(out.results) == q.limit || size > maxContexts {
				return out, nil
			}
			out.last = &found.Hits[i].Position
			if r.missing {
				out.missing++
			}
			if r.raw != nil {
				out.results = append(out.results, r.searchResult)
				size += len(r.raw)
			}
		}
		switch {
		case len(shown) < len(found.Hits): // too much stands around them
			return out, nil
		case len(found.Hits) < query.Limit:
			out.ended = true
			return out, nil
		case len(out.results) == q.limit:
			return out, nil
		}
	}
	return out, nil
}

// shownHit is what became of a hit: without a result, it was not shown after all.
type shownHit struct {
	searchResult
	missing bool
}

// fetch makes results of hits: of the first of them only, if more than maxContexts stands around
// those.
func (s *indexSearch) fetch(found []e2ee.SearchHit) ([]shownHit, error) {
	around := make([]*eventAround, len(found))
	n, size := 0, 0
	for n < len(found) && size <= maxContexts {
		group, ctx := errgroup.WithContext(s.x.Request.Context())
		first := n
		n = min(n+searchParallel, len(found))
		for i := first; i < n; i++ {
			group.Go(parallel.Safe(func() (err error) {
				around[i], err = s.around(ctx, &found[i])
				return err
			}))
		}
		if err := group.Wait(); err != nil {
			return nil, err //nolint:wrapcheck // it is what the client is told
		}
		for _, a := range around[first:n] {
			size += a.size()
		}
	}
	found, around = found[:n], around[:n]
	fits, err := s.check(found, around)
	if err != nil {
		return nil, err
	}
	out := make([]shownHit, len(found))
	for i, hit := range found {
		if out[i].missing = around[i] == nil; !fits[i] {
			continue
		}
		if out[i].searchResult, err = s.result(&hit, around[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// eventAround is an event, and what stands around it, as the homeserver shows it.
type eventAround struct {
	Event  jsontext.Value   `json:"event"`
	Before []jsontext.Value `json:"events_before"`
	After  []jsontext.Value `json:"events_after"`
	State  []jsontext.Value `json:"state"`
	Start  string           `json:"start"`
	End    string           `json:"end"`

	profiles map[string]map[string]string // by user

	gone bool              // the homeserver does not show it to the user
	edit jsontext.Value    // that the text is from
	head strictjson.Object // the event
}

// size returns how much it is, in bytes.
func (a *eventAround) size() int {
	if a == nil {
		return 0
	}
	n := len(a.Event) + len(a.edit)
	for _, list := range [][]jsontext.Value{a.Before, a.After, a.State} {
		for _, event := range list {
			n += len(event)
		}
	}
	return n
}

// around asks the homeserver for an event. nil means that it did not answer.
func (s *indexSearch) around(ctx context.Context, hit *e2ee.SearchHit) (*eventAround, error) {
	q := &s.asked.index
	query := exchange.IdentityQuery(s.x.Request.URL.Query())
	query.Set("limit", fmt.Sprint(2*max(q.before, q.after)))
	query.Set("filter", `{"lazy_load_members":true}`)
	raw, status, err := ask(ctx, s.x, Change{
		Pattern: "/_matrix/client/v3/rooms/{roomId}/context/{eventId}", Query: query,
		Params: map[string]string{"roomId": hit.Room.String(), "eventId": hit.Event.String()},
	})
	if raw == nil {
		if status == http.StatusForbidden || status == http.StatusNotFound {
			return &eventAround{gone: true}, err
		}
		return nil, err
	}
	a := &eventAround{}
	if json.Unmarshal(raw, a) != nil {
		return nil, nil //nolint:nilnil // as if it had not answered
	}
	if a.head, err = strictjson.Parse(a.Event); err != nil || a.head.TextOrEmpty("event_id") != hit.Event.String() {
		return nil, nil //nolint:nilerr,nilnil // the same
	}
	if room, ok := a.head.Text("room_id"); ok && room != hit.Room.String() {
		return nil, nil //nolint:nilnil // the same
	}
	a.head = a.head.Set("room_id", strictjson.Quote(hit.Room.String()))
	if hit.Source != "" {
		if a.edit, err = s.editOf(ctx, a, hit); err != nil {
			return nil, err
		}
	}
	if a.Before, a.After = atMost(a.Before, q.before), atMost(a.After, q.after); q.profiles {
		err = s.profiles(ctx, hit.Room, a)
	}
	return a, err
}

// editOf returns the edit that the text of a hit is from: as the homeserver bundled it with
// the event, or else as it gives it out.
func (s *indexSearch) editOf(ctx context.Context, a *eventAround, hit *e2ee.SearchHit) (jsontext.Value, error) {
	bundled := a.head.Object("unsigned").Object("m.relations").Object("m.replace")
	if bundled.TextOrEmpty("event_id") == hit.Source.String() {
		return jsontext.Value(bundled.Encode()), nil
	}
	raw, _, err := ask(ctx, s.x, Change{
		Pattern: "/_matrix/client/v3/rooms/{roomId}/event/{eventId}", Query: exchange.IdentityQuery(s.x.Request.URL.Query()),
		Params: map[string]string{"roomId": hit.Room.String(), "eventId": hit.Source.String()},
	})
	return raw, err
}

// check opens what the hits are about, and reports which of them are what was looked for.
func (s *indexSearch) check(found []e2ee.SearchHit, around []*eventAround) ([]bool, error) {
	var in []e2ee.Incoming
	var at []int
	for i, a := range around {
		if a == nil || a.gone {
			continue
		}
		event := []byte(a.head.Encode())
		if found[i].Source != "" {
			event = a.edit
		}
		if len(event) > 0 {
			in, at = append(in, e2ee.Incoming{RoomID: found[i].Room, Event: event, Page: true, Wait: s.keyWait}), append(at, i)
		}
	}
	fits := make([]bool, len(found))
	if len(in) == 0 {
		return fits, nil
	}
	opened, err := s.dev.Open(s.x.Request.Context(), in)
	if err != nil || len(opened) != len(in) {
		return nil, engineerr.For(fmt.Errorf("open what was found: %w", err))
	}
	for k, i := range at {
		if !opened[k].Withheld && !opened[k].Hidden {
			fits[i] = s.shows(&found[i], around[i], &opened[k])
		}
	}
	return fits, nil
}

// shows reports whether an opened event, or an edit of it by its own sender, is what was
// looked for.
func (s *indexSearch) shows(hit *e2ee.SearchHit, a *eventAround, opened *e2ee.Opened) bool {
	event, err := strictjson.Parse(opened.Event)
	if err != nil {
		return false
	}
	content := event.Get("content")
	if hit.Source != "" {
		said := event.Object("content")
		relation := said.Object("m.relates_to")
		if relation.TextOrEmpty("rel_type") != "m.replace" || relation.TextOrEmpty("event_id") != hit.Event.String() ||
			event.TextOrEmpty("sender") != a.head.TextOrEmpty("sender") {
			return false
		}
		content = said.Get("m.new_content")
	}
	return s.asked.index.fits(opened.Type, content)
}
