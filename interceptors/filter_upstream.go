package interceptors

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
	"e2ee-proxy/interceptors/internal/filter"
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

// filters turns a client's filter parameter into the one for the homeserver.
type filters struct {
	byID   *lru.Cache[filterKey, *filter.Filter]
	stored *lru.Cache[storedKey, string] // IDs of wider filters
}

type filterKey struct {
	user id.UserID
	id   string
}

type storedKey struct {
	user id.UserID
	hash [sha256.Size]byte
}

func newFilters() (*filters, error) {
	byID, err := lru.New[filterKey, *filter.Filter](maxFilters)
	if err != nil {
		return nil, fmt.Errorf("make filter cache: %w", err)
	}
	stored, err := lru.New[storedKey, string](maxFilters)
	if err != nil {
		return nil, fmt.Errorf("make filter cache: %w", err)
	}
	return &filters{byID: byID, stored: stored}, nil
}

// chosen is the result of choosing a filter.
type chosen struct {
	param  string         // for the homeserver
	filter *filter.Filter // to apply to the answer; nil: nothing
	// broken reports whether the filter cannot be parsed: only an error may be the answer.
	broken bool
	// forget drops the stored filter that param names, when the homeserver refuses it.
	forget func()
	// answer is an error response of the homeserver that answers the whole request. The
	// receiver closes its body.
	answer *http.Response
}

// choose parses a filter parameter and returns what goes upstream in its place.
func (f *filters) choose(x *Exchange, param string, initial bool) (chosen, error) {
	byID := param != "" && param[0] != '{'
	c := chosen{param: param, forget: func() {}}
	switch {
	case param == "":
		return c, nil
	case byID:
		filter, answer, err := f.fetch(x, param) //nolint:bodyclose // the receiver of chosen closes it
		if err != nil || answer != nil {
			c.answer = answer
			return c, err
		}
		c.filter = filter
	case len(param) > maxFilter:
		c.broken = true
		return c, nil
	default:
		filter, err := filter.Parse([]byte(param), annotationPaths()...)
		if err != nil {
			c.broken = true
			return c, nil //nolint:nilerr // the homeserver says what is wrong with it
		}
		c.filter = filter
	}
	if c.filter == nil {
		c.broken = true
		return c, nil
	}
	wide := c.filter.Upstream(initial)
	if wide == nil {
		return c, nil
	}
	c.param = string(wide)
	if byID || len(wide) > maxInline {
		return c, f.store(x, &c, wide)
	}
	return c, nil
}

// fetch reads a filter that the client stored before. The filter is nil when it cannot be
// parsed; the response is set when the homeserver did not return it.
func (f *filters) fetch(x *Exchange, filterID string) (*filter.Filter, *http.Response, error) {
	key := filterKey{x.Identity.UserID, filterID}
	if filter, ok := f.byID.Get(key); ok {
		return filter, nil, nil
	}
	resp, err := x.Upstream.Do(x, Change{
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
	filter, err := filter.Parse(raw, annotationPaths()...)
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
func (f *filters) store(x *Exchange, c *chosen, wide []byte) error {
	key := storedKey{x.Identity.UserID, sha256.Sum256(wide)}
	filterID, ok := f.stored.Get(key)
	if !ok {
		resp, err := x.Upstream.Do(x, Change{
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
	c.param = filterID
	c.forget = func() { f.stored.Remove(key) }
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

// annotationPaths are the paths of the proxy's annotation, which no filter leaves out.
func annotationPaths() [][]string { return [][]string{{nameDecrypted}, {"unsigned", nameTrust}} }
