package interceptors

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/interceptors/internal/rewrite"
)

// Filters of pages: the filter of GET messages and context, and the event type of GET
// relations (requirements 19.7, 19.12). The homeserver has encrypted events, so it is asked
// for more, and the filter is applied to the clear ones. In a room without encryption the
// request goes up as it came.
//
// The homeserver's limit counts what it sends, so a page holds at most as many events as the
// client wants, often fewer. When none is left, the page behind it is asked for, and so on
// within bounds: a client gets something if there is something near. What it gets is one
// page of the homeserver's with the token of the page behind it, never parts of two.
//
// Dendrite says that the history ends where its filter leaves nothing of a page. So an empty
// last page is asked for once more, without what could leave events out.

const (
	// maxFollowed is how many pages are asked for at most, for one request, and followFor how
	// long after it no further one is.
	maxFollowed = 10
	followFor   = 5 * time.Second
)

// filteredPage is a request for a page with a filter for clear events.
type filteredPage struct {
	pattern string // empty: the request's own
	query   url.Values
	shown   *filter.Filter
	// page is the filter in the query; nil for relations.
	page *filter.Page
}

// filtered returns what is asked of the homeserver instead of the client's request, if that
// has a filter that encryption hides from the homeserver; else nil.
func (r *read) filtered(x *Exchange, dev Device) (*filteredPage, error) {
	want := &filteredPage{}
	switch r.name {
	case Messages, EventContext:
		query := syncQuery(x.Request)
		param := query.Get("filter")
		if param == "" {
			return nil, nil
		}
		page, err := filter.ParsePage(param, r.name == EventContext)
		if err != nil {
			return nil, apierr.BadJSON("The filter cannot be read.")
		}
		want.page, want.query, want.shown = page, query, page.Shown
	case Relations:
		eventType, ok := x.Endpoint.Params["eventType"]
		pattern, cut := strings.CutSuffix(x.Endpoint.Pattern, "/{eventType}")
		if !ok || !cut || eventType == "" || eventType == "m.room.encrypted" { // who asks for that, knows
			return nil, nil
		}
		want.pattern, want.query, want.shown = pattern, syncQuery(x.Request), filter.OfType(eventType)
	default:
		return nil, nil
	}
	plain, err := r.isPlain(x, dev)
	if err != nil || plain {
		return nil, err
	}
	return want, nil
}

// isPlain reports whether the room in the request's path is known not to be encrypted.
func (r *read) isPlain(x *Exchange, dev Device) (bool, error) {
	room, err := x.RoomParam()
	if err != nil {
		return false, err
	}
	state, err := dev.RoomEncryption(x.Request.Context(), room)
	if said, ok := errors.AsType[*apierr.Error](engineerr.For(err)); ok && said.Status == http.StatusUnauthorized {
		return false, said // about the client's token, so the client must get it
	}
	return err == nil && state == e2ee.RoomPlain, nil
}

// tokens are those of the pages that one request has asked for.
type tokens struct {
	from string // of the page that is asked for now
	seen map[string]bool
}

func newPageTokens(from string) *tokens {
	t := &tokens{from: from, seen: make(map[string]bool, 1)}
	if from != "" {
		t.seen[from] = true
	}
	return t
}

// goesOn reports whether a page's token leads to another page. A client that follows the
// tokens until there is none would follow one that it came from for ever.
func (t *tokens) goesOn(end string) bool { return !t.seen[end] }

// next makes the page behind this one that which is asked for.
func (t *tokens) next(end string) { t.from, t.seen[end] = end, true }

// turn is one page of a request with a filter.
type turn struct {
	resp *http.Response
	as   *rewrite.Rendered
}

// close gives back what a page was kept in.
func (t *turn) close() error {
	if t == nil {
		return nil
	}
	return errors.Join(t.as.Close(), t.resp.Body.Close())
}

// follow answers a request with a filter: with the first page that shows something, or with
// the last one within the bounds.
func (r *read) follow(x *Exchange, dev Device, want *filteredPage) (err error) {
	at := newPageTokens(want.query.Get("from"))
	began := time.Now()
	var last *turn
	defer func() { err = errors.Join(err, last.close()) }()
	param, whole := "", false
	if want.page != nil {
		param = want.page.First()
	}
	for asked := 1; ; asked++ {
		if param != "" {
			want.query.Set("filter", param)
		}
		resp, err := x.Upstream.Do(x, Change{Pattern: want.pattern, Query: want.query})
		switch {
		case err != nil && last == nil:
			return err
		case err != nil: // the client asks for it again, with the token that it gets now
			return last.as.Relay(x, last.resp)
		case resp.StatusCode != http.StatusOK && last == nil:
			return x.RelayAndClose(resp)
		case resp.StatusCode != http.StatusOK:
			return errors.Join(last.as.Relay(x, last.resp), resp.Body.Close())
		}
		now, listed, end, err := r.render(x, dev, resp, at, want.shown)
		if err != nil {
			return errors.Join(err, resp.Body.Close())
		}
		before := last
		last = now
		if err := before.close(); err != nil {
			return fmt.Errorf("close a page: %w", err)
		}
		again := end == "" && listed == 0 && want.page != nil && !whole
		if now.as.Shown > 0 || asked >= maxFollowed || time.Since(began) > followFor || want.shown.Timeline().Nothing() ||
			r.pageToken() == "" || end == "" && !again {
			return now.as.Relay(x, now.resp)
		}
		if !again {
			at.next(end)
			want.query.Set("from", end)
		}
		if want.page != nil {
			whole = whole || again
			if param = want.page.Next(); whole {
				param = want.page.Whole()
			}
		}
	}
}

// pageToken returns where the token of the page behind this one stands; empty: nowhere.
func (r *read) pageToken() string { return pageTokens[r.name] }

// render rewrites one page, and returns how many events the homeserver put there and the token
// of the page behind it.
func (r *read) render(x *Exchange, dev Device, resp *http.Response, at *tokens, shown *filter.Filter) (out *turn, listed int, end string, err error) {
	body, end, err := r.take(x, dev, resp, at, shown)
	if err != nil {
		return nil, 0, "", err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	as, err := body.Render(x.Request.Context(), r.output(dev))
	if err != nil {
		return nil, 0, "", err
	}
	return &turn{resp, as}, body.Listed(), end, nil
}
