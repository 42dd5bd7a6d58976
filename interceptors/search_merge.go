package interceptors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/parallel"
)

// maxFoundUpstream is the largest answer of the homeserver that is merged with results of the
// index, in bytes.
const maxFoundUpstream = 16 << 20

// theirResults is what the homeserver found.
type theirResults struct {
	Count      int                         `json:"count"`
	Highlights []string                    `json:"highlights"`
	Results    []jsontext.Value            `json:"results"`
	State      map[string][]jsontext.Value `json:"state"`
	Next       string                      `json:"next_batch"`

	results []searchResult
	over    bool // it was not asked, or has no more
}

// upstream asks the homeserver about the plain rooms. failed is an answer that is an error of
// the search itself.
func (s *indexSearch) upstream() (found theirResults, failed *http.Response, err error) {
	if len(s.rooms.plain) == 0 || s.from.Over {
		return theirResults{over: true}, nil, nil
	}
	body, err := s.asked.inRooms(s.rooms.plain)
	if err != nil {
		return found, nil, err
	}
	query := exchange.IdentityQuery(s.x.Request.URL.Query())
	if s.from.Batch != "" {
		query.Set("next_batch", s.from.Batch)
	}
	resp, err := s.x.Upstream.Do(s.x, Change{Body: body, Query: query})
	if err != nil {
		return found, nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusTooManyRequests:
		defer func() { _ = resp.Body.Close() }()
		return found, nil, apierr.FromResponse(resp)
	default:
		return theirResults{over: true}, resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	raw := exchange.PeekUpTo(resp, maxFoundUpstream)
	var answer struct {
		Categories struct {
			Events theirResults `json:"room_events"`
		} `json:"search_categories"`
	}
	if raw == nil || json.Unmarshal(raw, &answer) != nil {
		return found, nil, apierr.Unreachable(errors.New("what the homeserver found is not readable"))
	}
	found = answer.Categories.Events
	for _, r := range found.Results {
		found.results = append(found.results, readResult(r))
	}
	found.over = found.Next == ""
	return found, nil, nil
}

// readResult reads what results are ordered and grouped by.
func readResult(raw jsontext.Value) searchResult {
	var r struct {
		Rank   float64 `json:"rank"`
		Result struct {
			ID     string `json:"event_id"`
			Room   string `json:"room_id"`
			Sender string `json:"sender"`
			At     int64  `json:"origin_server_ts"`
		} `json:"result"`
	}
	if json.Unmarshal(raw, &r) != nil {
		return searchResult{raw: raw}
	}
	return searchResult{raw: raw, rank: r.Rank, at: r.Result.At, id: r.Result.ID, room: r.Result.Room, sender: r.Result.Sender}
}

// page chooses the results of a page, of both sides, each of which is in order, and returns
// where the next one begins.
func (s *indexSearch) page(own *hits, theirs *theirResults) ([]searchResult, searchPlace) {
	q := &s.asked.index
	a, b := own.results, theirs.results[min(s.from.Shown, len(theirs.results)):]
	var out []searchResult
	for len(out) < q.limit && len(a)+len(b) > 0 {
		// Behind the homeserver's page may be what comes before the rest of ours.
		if len(b) == 0 && !theirs.over && len(out) > 0 {
			break
		}
		if len(b) == 0 || len(a) > 0 && a[0].before(&b[0], q.recent) {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	next := searchPlace{ours: true, After: own.last, Ended: own.ended && len(a) == 0}
	if shown := len(own.results) - len(a); len(a) > 0 {
		next.After = s.from.After
		if shown > 0 {
			next.After = &own.results[shown-1].place
		}
	}
	switch {
	case len(b) > 0:
		next.Batch, next.Shown = s.from.Batch, len(theirs.results)-len(b)
	case theirs.over:
		next.Over = true
	default:
		next.Batch = theirs.Next
	}
	return out, next
}

// before reports whether a result comes before another.
func (r *searchResult) before(o *searchResult, recent bool) bool {
	if !recent && r.rank != o.rank {
		return r.rank > o.rank
	}
	return r.at >= o.at
}

// merge makes the answer.
func (s *indexSearch) merge(own hits, theirs theirResults) ([]byte, error) {
	results, next := s.page(&own, &theirs)
	q := &s.asked.index
	found := map[string]any{
		"count": own.count + theirs.Count, "results": raws(results),
		"highlights": slices.Compact(slices.Sorted(slices.Values(slices.Concat(q.term.Highlights(), theirs.Highlights)))),
	}
	token, err := next.token()
	if err != nil {
		return nil, fmt.Errorf("write what was found: %w", err)
	}
	if token != "" {
		found["next_batch"] = token
	}
	if len(q.groups) > 0 {
		found["groups"] = groupsOf(results, q.groups)
	}
	if q.includeState {
		if found["state"], err = s.state(results, theirs.State); err != nil {
			return nil, err
		}
	}
	raw, err := json.Marshal(map[string]any{"search_categories": map[string]any{"room_events": found}}, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		return nil, fmt.Errorf("write what was found: %w", err)
	}
	return raw, nil
}

func raws(results []searchResult) []jsontext.Value {
	out := make([]jsontext.Value, len(results))
	for i := range results {
		out[i] = results[i].raw
	}
	return out
}

// group is the results of one room or sender.
type group struct {
	Results []string `json:"results"`
	Order   int      `json:"order"`
}

func groupsOf(results []searchResult, by []string) map[string]map[string]*group {
	all := make(map[string]map[string]*group)
	for _, key := range by {
		all[key] = make(map[string]*group)
		for i := range results {
			name := results[i].room
			if key == "sender" {
				name = results[i].sender
			}
			if all[key][name] == nil {
				all[key][name] = &group{Order: len(all[key])}
			}
			all[key][name].Results = append(all[key][name].Results, results[i].id)
		}
	}
	return all
}

// state returns the state of the rooms that results are in.
func (s *indexSearch) state(results []searchResult, known map[string][]jsontext.Value) (map[string][]jsontext.Value, error) {
	var rooms []string
	for i := range results {
		room := results[i].room
		if _, ok := known[room]; !ok && exchange.ValidRoom(room) && !slices.Contains(rooms, room) {
			rooms = append(rooms, room)
		}
	}
	got := make([][]jsontext.Value, len(rooms))
	group, ctx := errgroup.WithContext(s.x.Request.Context())
	group.SetLimit(searchParallel)
	for i, room := range rooms {
		group.Go(parallel.Safe(func() (err error) {
			got[i], err = s.stateOf(ctx, room)
			return err
		}))
	}
	if err := group.Wait(); err != nil {
		return nil, err //nolint:wrapcheck // it is what the client is told
	}
	out := make(map[string][]jsontext.Value)
	maps.Copy(out, known)
	for i, room := range rooms {
		out[room] = got[i]
	}
	return out, nil
}

// stateOf asks for a room's state; none if the homeserver does not say, or says too much.
func (s *indexSearch) stateOf(ctx context.Context, room string) ([]jsontext.Value, error) {
	raw, _, err := ask(ctx, s.x, Change{
		Pattern: "/_matrix/client/v3/rooms/{roomId}/state", Params: map[string]string{"roomId": room},
		Query: exchange.IdentityQuery(s.x.Request.URL.Query()),
	})
	var events []jsontext.Value
	if err != nil || raw == nil || json.Unmarshal(raw, &events) != nil {
		return []jsontext.Value{}, err
	}
	return events, nil
}

// result makes a result of a hit.
func (s *indexSearch) result(hit *e2ee.SearchHit, a *eventAround) (searchResult, error) {
	q := &s.asked.index
	around := map[string]any{}
	if q.context {
		around["events_before"], around["events_after"] = a.Before, a.After
		around["start"], around["end"] = a.Start, a.End
		if around["profile_info"] = map[string]any{}; q.profiles {
			around["profile_info"] = a.profiles
		}
	}
	raw, err := json.Marshal(map[string]any{"rank": hit.Rank, "result": jsontext.Value(a.head.Encode()), "context": around},
		jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true), json.Deterministic(true))
	if err != nil {
		return searchResult{}, fmt.Errorf("write what was found: %w", err)
	}
	return searchResult{
		raw: raw, rank: hit.Rank, at: hit.At, id: hit.Event.String(), room: hit.Room.String(),
		sender: a.head.TextOrEmpty("sender"), place: hit.Position,
	}, nil
}
