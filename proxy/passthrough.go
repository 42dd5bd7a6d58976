package proxy

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"e2ee-proxy/internal/endtoend"
)

// Rules of this file:
//   - A request that goes straight through is the client's, without what headers.go and token.go
//     took away. So is its answer, without what belongs to one connection.
//   - What comes before the answer (1xx) and after its body (trailers) passes too.
//   - A body passes as it comes, with the length that it has.
//   - When the handler has returned, nothing of the request is read and nothing is written.

// headerPause is how long the header of an answer of unknown length waits for a body to go with.
const headerPause = 2 * time.Millisecond

var errLentBody = errors.New("the request was answered before its body was read")

// passing is what one request that goes straight through needs.
type passing struct {
	early  earlyAnswers
	trace  httptrace.ClientTrace
	target url.URL
	lent   lentBody
}

// forward passes a request straight through to a path of the homeserver. Its header becomes the
// transport's, which may go on reading it.
func (p *Proxy) forward(q *request, req *http.Request, path, query string) error {
	s := &passing{early: earlyAnswers{to: q.w}}
	s.trace.Got1xxResponse = s.early.pass
	out := req.WithContext(httptrace.WithClientTrace(req.Context(), &s.trace))
	out.URL, out.Host = &s.target, p.base.Host
	s.target = p.target(path, query)
	out.Close, out.Trailer = false, nil
	if q.from != "" { // else cleanHeader has done that
		endtoend.Remove(out.Header)
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // or the transport would say what it is
	}
	switch {
	case out.ContentLength == 0:
		out.Body = nil // lets the transport try again on another connection
	case out.Body != nil:
		s.lent.from = out.Body
		defer s.lent.back.Store(true)
		out.Body = &s.lent
	}
	resp, err := p.trips[q.route.lane].RoundTrip(out)
	s.early.end()
	if err == nil {
		endtoend.Remove(resp.Header)
		if err = p.checkUnauthorized(resp); err != nil {
			err = errors.Join(err, resp.Body.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("forward: %w", p.upstreamError(err))
	}
	return p.passAnswer(q, resp)
}

// passAnswer passes an answer on, from its header to its trailers.
func (p *Proxy) passAnswer(q *request, resp *http.Response) error {
	h := q.w.Header()
	for name, values := range resp.Header {
		if has := h[name]; len(has) > 0 {
			values = slices.Concat(has, values)
		}
		h[name] = values
	}
	announced := len(resp.Trailer)
	if announced > 0 {
		h["Trailer"] = []string{strings.Join(slices.Sorted(maps.Keys(resp.Trailer)), ", ")}
	}
	q.w.WriteHeader(resp.StatusCode)
	err := p.copyPassing(q.w, resp)
	_ = resp.Body.Close() // it was read to its end, or has failed
	if body, ok := resp.Body.(*progressBody); ok {
		p.watches.keep(body)
	}
	if err != nil {
		if q.r.Context().Err() != nil {
			err = fmt.Errorf("%w: %w", errClientGone, err)
		}
		return err
	}
	if len(resp.Trailer) > 0 {
		_ = q.w.FlushError() // a body with trailers has no length, however short it is
		prefix := ""
		if len(resp.Trailer) != announced {
			prefix = http.TrailerPrefix
		}
		for name, values := range resp.Trailer {
			h[prefix+name] = values
		}
	}
	return nil
}

// copyPassing is copyBody for an answer whose header does not wait for its body.
func (p *Proxy) copyPassing(w *recorder, resp *http.Response) error {
	if resp.ContentLength >= 0 || resp.Body == http.NoBody {
		return p.copyBody(w, resp)
	}
	ahead := &headerAhead{ReadCloser: resp.Body, to: w}
	timer := time.AfterFunc(headerPause, ahead.flush)
	defer timer.Stop()
	defer ahead.stop()
	passed := *resp
	passed.Body = ahead
	return p.copyBody(w, &passed)
}

// earlyAnswers passes on what comes before an answer, until that is there.
type earlyAnswers struct {
	mu    sync.Mutex
	to    http.ResponseWriter
	ended bool
}

// pass passes one on.
func (e *earlyAnswers) pass(code int, header textproto.MIMEHeader) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return nil
	}
	h := e.to.Header()
	maps.Copy(h, header)
	e.to.WriteHeader(code)
	clear(h) // the server leaves it there
	return nil
}

func (e *earlyAnswers) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
}

// lentBody is a request's body while the handler runs: the transport may hold it for longer, and must
// not close it, because the server would then wait for the rest of it.
type lentBody struct {
	from io.Reader
	back atomic.Bool
}

// Read implements io.Reader.
func (b *lentBody) Read(p []byte) (int, error) {
	if b.back.Load() {
		return 0, errLentBody
	}
	return b.from.Read(p) //nolint:wrapcheck // an io.Reader passes errors on
}

// Close implements io.Closer.
func (b *lentBody) Close() error {
	b.back.Store(true)
	return nil
}

// headerAhead is a body that has the header sent when its first bytes are not there soon.
type headerAhead struct {
	io.ReadCloser

	mu      sync.Mutex
	to      *recorder
	stopped bool
}

// flush sends the header, unless something has come.
func (a *headerAhead) flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.stopped {
		_ = a.to.FlushError() // a failed flush shows in the next write
	}
}

// stop waits for flush, which does nothing from now on.
func (a *headerAhead) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
}

// Read implements io.Reader.
func (a *headerAhead) Read(p []byte) (int, error) {
	n, err := a.ReadCloser.Read(p)
	a.stop()
	return n, err //nolint:wrapcheck // an io.Reader passes errors on
}
