package filter

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/go-json-experiment/json"
	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
)

const (
	// maxFilter is the largest filter that is parsed, in bytes.
	maxFilter = 64 << 10
	// maxInline is the largest filter that goes upstream in a query, in bytes; a larger one,
	// and one that the client named by its ID, is stored at the homeserver.
	maxInline = 1024
	// maxRemembered is the largest filter, in bytes, that is remembered by its ID.
	maxRemembered = 8 << 10
	// maxFilters is how many filters are remembered, for all users together.
	maxFilters = 4096

	patternFilters = "/_matrix/client/{version}/user/{userId}/filter"
	patternFilter  = patternFilters + "/{filterId}"
)

// Chooser turns a client's filter parameter into the one for the homeserver.
type Chooser struct {
	byID   *lru.Cache[filterKey, *Filter]
	stored *lru.Cache[storedKey, string] // IDs of wider filters
	always [][]string
}

type filterKey struct {
	user id.UserID
	id   string
}

type storedKey struct {
	user id.UserID
	hash [sha256.Size]byte
}

// NewChooser returns one for filters that never leave out the fields named by always.
func NewChooser(always ...[]string) (*Chooser, error) {
	byID, err := lru.New[filterKey, *Filter](maxFilters)
	if err != nil {
		return nil, fmt.Errorf("make filter cache: %w", err)
	}
	stored, err := lru.New[storedKey, string](maxFilters)
	if err != nil {
		return nil, fmt.Errorf("make filter cache: %w", err)
	}
	return &Chooser{byID: byID, stored: stored, always: always}, nil
}

// Chosen is the result of choosing a filter.
type Chosen struct {
	Param  string  // for the homeserver
	Filter *Filter // to apply to the answer; nil: nothing
	// Broken reports whether the filter cannot be parsed: only an error may be the answer.
	Broken bool
	// Forget drops the stored filter that Param names, when the homeserver refuses it.
	Forget func()
	// Answer is an error response of the homeserver that answers the whole request. The
	// receiver closes its body.
	Answer *http.Response
}

// Choose parses a filter parameter and returns what goes upstream in its place.
func (f *Chooser) Choose(x *exchange.Exchange, param string, initial bool) (Chosen, error) {
	byID := param != "" && param[0] != '{'
	c := Chosen{Param: param, Forget: func() {}}
	switch {
	case param == "":
		return c, nil
	case byID:
		filter, answer, err := f.fetch(x, param) //nolint:bodyclose // the receiver of Chosen closes it
		if err != nil || answer != nil {
			c.Answer = answer
			return c, err
		}
		c.Filter = filter
	case len(param) > maxFilter:
		c.Broken = true
		return c, nil
	default:
		filter, err := Parse([]byte(param), f.always...)
		if err != nil {
			c.Broken = true
			return c, nil //nolint:nilerr // the homeserver says what is wrong with it
		}
		c.Filter = filter
	}
	if c.Filter == nil {
		c.Broken = true
		return c, nil
	}
	wide := c.Filter.upstream(initial)
	if wide == nil {
		return c, nil
	}
	c.Param = string(wide)
	if byID || len(wide) > maxInline {
		return c, f.store(x, &c, wide)
	}
	return c, nil
}

// fetch reads a filter that the client stored before. The filter is nil when it cannot be
// parsed; the response is set when the homeserver did not return it.
func (f *Chooser) fetch(x *exchange.Exchange, filterID string) (*Filter, *http.Response, error) {
	key := filterKey{x.Identity.UserID, filterID}
	if filter, ok := f.byID.Get(key); ok {
		return filter, nil, nil
	}
	resp, err := x.Upstream.Do(x, exchange.Change{
		Method: http.MethodGet, Pattern: patternFilter, Query: url.Values{},
		Params: map[string]string{"userId": string(x.Identity.UserID), "filterId": filterID},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("get filter: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, resp, nil
	}
	raw, err := readAnswer(resp, maxFilter)
	if err != nil {
		return nil, nil, fmt.Errorf("get filter: %w", err)
	}
	filter, err := Parse(raw, f.always...)
	if err != nil {
		return nil, nil, nil //nolint:nilerr,nilnil // not cached: the request is refused each time
	}
	if len(raw) <= maxRemembered {
		f.byID.Add(key, filter)
	}
	return filter, nil, nil
}

// store sets the wider filter's ID in c, after storing it at the homeserver if needed. If
// the homeserver does not accept it, it goes up inline.
func (f *Chooser) store(x *exchange.Exchange, c *Chosen, wide []byte) error {
	key := storedKey{x.Identity.UserID, sha256.Sum256(wide)}
	filterID, ok := f.stored.Get(key)
	if !ok {
		resp, err := x.Upstream.Do(x, exchange.Change{
			Method: http.MethodPost, Pattern: patternFilters, Query: url.Values{}, Body: wide,
			Params: map[string]string{"userId": string(x.Identity.UserID)},
		})
		if err != nil {
			return fmt.Errorf("store filter: %w", err)
		}
		raw, err := readAnswer(resp, maxFilter)
		if err != nil {
			return fmt.Errorf("store filter: %w", err)
		}
		var stored struct {
			FilterID string `json:"filter_id"`
		}
		if resp.StatusCode != http.StatusOK || json.Unmarshal(raw, &stored) != nil || stored.FilterID == "" || stored.FilterID[0] == '{' {
			return nil
		}
		filterID = stored.FilterID
		f.stored.Add(key, filterID)
	}
	c.Param = filterID
	c.Forget = func() { f.stored.Remove(key) }
	return nil
}

// readAnswer reads and closes the body of a short answer of the homeserver.
func readAnswer(resp *http.Response, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if closed := resp.Body.Close(); err == nil {
		err = closed
	}
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	if err != nil {
		return nil, apierr.Unread(fmt.Errorf("read the homeserver's answer: %w", err))
	}
	return raw, nil
}
