package interceptors

import (
	"encoding/base64"
	"encoding/json"
	"path"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/strictjson"
)

const (
	// defaultFound and maxFound are how many results a page of what the index found has.
	defaultFound, maxFound = 10, 100
	// defaultAround and maxAround are how many events are shown before a result, and after it.
	defaultAround, maxAround = 5, 20
)

// indexQuery is what a search says for the index.
type indexQuery struct {
	term   e2ee.SearchTerm
	keys   []e2ee.SearchKey
	recent bool
	limit  int

	types, notTypes     []string // may have *
	senders, notSenders []id.UserID
	url                 *bool

	context                bool // wanted
	before, after          int
	profiles, includeState bool
	groups                 []string
}

// searchBody is the part of a search that the index reads. Members of other types are
// refused.
type searchBody struct {
	Term    string   `json:"search_term"`
	Keys    []string `json:"keys"`
	OrderBy string   `json:"order_by"`
	Context *struct {
		Before  *int `json:"before_limit"`
		After   *int `json:"after_limit"`
		Profile bool `json:"include_profile"`
	} `json:"event_context"`
	State     bool `json:"include_state"`
	Groupings struct {
		By []struct {
			Key string `json:"key"`
		} `json:"group_by"`
	} `json:"groupings"`
}

type searchFilter struct {
	Limit      *int        `json:"limit"`
	Types      []string    `json:"types"`
	NotTypes   []string    `json:"not_types"`
	Senders    []id.UserID `json:"senders"`
	NotSenders []id.UserID `json:"not_senders"`
	URL        *bool       `json:"contains_url"`
}

// readIndexQuery reads room_events and its filter.
func readIndexQuery(events, filter strictjson.Object) (indexQuery, error) {
	var body searchBody
	var in searchFilter
	if json.Unmarshal(events.Encode(), &body) != nil || json.Unmarshal(filter.Encode(), &in) != nil {
		return indexQuery{}, apierr.BadJSON("A member of the search has the wrong type.")
	}
	q := indexQuery{
		term: e2ee.NewSearchTerm(body.Term), recent: body.OrderBy == "recent", limit: bounded(in.Limit, defaultFound, maxFound),
		types: in.Types, notTypes: in.NotTypes, senders: in.Senders, notSenders: in.NotSenders, url: in.URL,
		includeState: body.State,
	}
	q.limit = max(q.limit, 1)
	names := map[string]e2ee.SearchKey{"content.body": e2ee.SearchBody, "content.name": e2ee.SearchName, "content.topic": e2ee.SearchTopic}
	for _, name := range body.Keys {
		if key, ok := names[name]; ok {
			q.keys = append(q.keys, key)
		}
	}
	if body.Keys == nil {
		q.keys = []e2ee.SearchKey{e2ee.SearchBody, e2ee.SearchName, e2ee.SearchTopic}
	}
	if body.Context != nil {
		q.context, q.profiles = true, body.Context.Profile
		q.before, q.after = bounded(body.Context.Before, defaultAround, maxAround), bounded(body.Context.After, defaultAround, maxAround)
	}
	for _, by := range body.Groupings.By {
		if (by.Key == "room_id" || by.Key == "sender") && !slices.Contains(q.groups, by.Key) {
			q.groups = append(q.groups, by.Key)
		}
	}
	return q, nil
}

// bounded returns a number that a client may have left out.
func bounded(n *int, otherwise, most int) int {
	if n == nil {
		return otherwise
	}
	return min(max(*n, 0), most)
}

// in returns the query of the index.
func (q *indexQuery) in(rooms []string, after *e2ee.SearchPosition) e2ee.SearchQuery {
	out := e2ee.SearchQuery{
		Term: q.term, Keys: q.keys, Senders: q.senders, NotSenders: q.notSenders,
		URL: q.url != nil && *q.url, Recent: q.recent, After: after, Limit: q.limit,
	}
	if q.types != nil && !slices.ContainsFunc(q.types, func(t string) bool { return strings.ContainsAny(t, `*?[\`) }) {
		out.Types = q.types
	}
	for _, room := range rooms {
		out.Rooms = append(out.Rooms, id.RoomID(room))
	}
	return out
}

// fits reports whether a clear event is one that was looked for. The index says only that it
// may be.
func (q *indexQuery) fits(eventType string, content json.RawMessage) bool {
	said, err := strictjson.Parse(content)
	if err != nil || q.types != nil && !likeAny(q.types, eventType) || likeAny(q.notTypes, eventType) {
		return false
	}
	if hasURL := said.TextOrEmpty("url") != "" || said.Object("file") != nil; q.url != nil && *q.url != hasURL {
		return false
	}
	var texts []string
	for key, text := range e2ee.SearchTextsOf(eventType, content) {
		if slices.Contains(q.keys, key) {
			texts = append(texts, text)
		}
	}
	return q.term.In(texts)
}

// likeAny reports whether a type is one of those of a filter, in which * stands for
// anything.
func likeAny(patterns []string, eventType string) bool {
	escape := strings.NewReplacer(`\`, `\\`, `?`, `\?`, `[`, `\[`)
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(escape.Replace(p), eventType)
		return ok && err == nil
	})
}

// searchPlace is where a search goes on: a next_batch of ours has what is behind it, in the
// index and at the homeserver. Only its owner has it, and it says nothing that they did not
// see.
type searchPlace struct {
	ours bool
	// After is the last result of the index that was shown; Ended: there is no other.
	After *e2ee.SearchPosition `json:"after,omitempty"`
	Ended bool                 `json:"ended,omitempty"`
	// Batch is the homeserver's next_batch with which the page begins of whose results Shown
	// were shown; Over: there is no other.
	Batch string `json:"batch,omitempty"`
	Shown int    `json:"shown,omitempty"`
	Over  bool   `json:"over,omitempty"`
}

const (
	searchPlacePrefix = "e2ee-proxy."
	maxSearchPlace    = 4 << 10
)

// first reports whether it is the beginning.
func (p *searchPlace) first() bool {
	return p.After == nil && !p.Ended && p.Batch == "" && !p.Over && p.Shown == 0
}

// readSearchPlace reads a next_batch. One of the homeserver's own was given out by a search
// in plain rooms.
func readSearchPlace(token string) (searchPlace, error) {
	coded, ours := strings.CutPrefix(token, searchPlacePrefix)
	switch {
	case token == "":
		return searchPlace{}, nil
	case !ours:
		return searchPlace{Batch: token, Ended: true}, nil
	case len(token) > maxSearchPlace:
		return searchPlace{}, apierr.InvalidParam("next_batch is too long.")
	}
	p := searchPlace{ours: true}
	raw, err := base64.RawURLEncoding.DecodeString(coded)
	if err != nil || strictjson.Unmarshal(raw, &p) != nil || p.Shown < 0 {
		return searchPlace{}, apierr.InvalidParam("next_batch is none that a search has returned.")
	}
	return p, nil
}

// token returns the next_batch for a place; empty when there is nothing behind it.
func (p *searchPlace) token() (string, error) {
	if p.Ended && p.Over {
		return "", nil
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return "", err //nolint:wrapcheck // it is plain data
	}
	token := searchPlacePrefix + base64.RawURLEncoding.EncodeToString(raw)
	if len(token) > maxSearchPlace {
		return "", nil // the homeserver's is too long to go on with
	}
	return token, nil
}
