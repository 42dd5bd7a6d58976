package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/bodyless"
	"e2ee-proxy/internal/endtoend"
)

// Rules of this file:
//   - One homeserver, fixed at the start: no redirect is followed and no proxy of the
//     environment is used.
//   - The request line is written from the judged endpoint, byte for byte.
//   - Nothing is decompressed here.

// openUpstream makes a transport for each kind of waiting.
func (p *Proxy) openUpstream(caFile string, w Waits) error {
	idle := p.deadlines.Idle
	quick, err := newTransports(caFile, w, w.Quick, idle, 4<<10)
	if err != nil {
		return err
	}
	slow, err := newTransports(caFile, w, w.Slow, idle, 4<<10)
	if err != nil {
		return err
	}
	// A parked poll holds its buffers and sends one header; what it gets is read past them.
	parked, err := newTransports(caFile, w, 0, idle, 1<<10)
	if err != nil {
		return err
	}
	p.closeIdle = func() {
		quick.close()
		slow.close()
		parked.close()
	}
	for l := range lanes {
		switch l {
		case laneQuick, laneSend, laneAuth, laneOwn:
			p.trips[l] = &progressTransport{quick, idle, &p.watches}
		case laneSlow, laneMedia:
			p.trips[l] = &progressTransport{slow, idle, &p.watches}
		case lanePoll:
			p.trips[l] = &pollTransport{to: &progressTransport{parked, idle, &p.watches}, draining: p.draining, grace: w.Poll}
		case lanes:
		}
	}
	return nil
}

// transports are the two ways to the homeserver: most requests have no body.
type transports struct {
	bodyless *bodyless.Transport
	rest     *http.Transport
}

func newTransports(caFile string, w Waits, headerWait, idle time.Duration, buffer int) (*transports, error) {
	rest, err := NewTransport(caFile, w.Dial, headerWait, idle)
	if err != nil {
		return nil, err
	}
	rest.ReadBufferSize, rest.WriteBufferSize = buffer, buffer
	return &transports{rest: rest, bodyless: bodyless.New(bodyless.Options{
		Dial: newDialer(w.Dial).DialContext, TLS: rest.TLSClientConfig, HandshakeWait: w.Dial, WriteWait: idle, HeaderWait: headerWait,
		IdleFor: rest.IdleConnTimeout, MaxIdle: rest.MaxIdleConnsPerHost, MaxHeader: rest.MaxResponseHeaderBytes, ReadBuffer: buffer,
	})}, nil
}

// RoundTrip implements http.RoundTripper.
func (t *transports) RoundTrip(r *http.Request) (*http.Response, error) {
	if bodyless.Takes(r) {
		return t.bodyless.RoundTrip(r) //nolint:wrapcheck // an http.RoundTripper passes errors on
	}
	return t.rest.RoundTrip(r) //nolint:wrapcheck // as above
}

func (t *transports) close() {
	t.bodyless.Close()
	t.rest.CloseIdleConnections()
}

// target returns the URL of an endpoint of the homeserver. The path is already encoded and goes into
// the request line as it is.
func (p *Proxy) target(path, query string) url.URL {
	return url.URL{Scheme: p.base.Scheme, Host: p.base.Host, Opaque: p.prefix + path, RawQuery: withoutMarks(query)}
}

// setTarget sets the URL of a request to an endpoint of the homeserver.
func (p *Proxy) setTarget(req *http.Request, path, query string) {
	to := p.target(path, query)
	req.URL, req.Host = &to, p.base.Host
}

// upstream is the homeserver for one exchange.
type upstream struct {
	p *Proxy
	q *request
}

var _ interceptors.Upstream = upstream{}

// Forward implements interceptors.Upstream.
func (u upstream) Forward(x *interceptors.Exchange) error {
	path, err := u.path(x, interceptors.Change{})
	if err != nil {
		return err
	}
	req := new(http.Request) // the handler's keeps its header
	cloneRequest(req, x.Request)
	return u.p.forward(u.q, req, path, x.Request.URL.RawQuery)
}

// Do implements interceptors.Upstream.
func (u upstream) Do(x *interceptors.Exchange, c interceptors.Change) (*http.Response, error) {
	path, err := u.path(x, c)
	if err != nil {
		return nil, err
	}
	req := x.Request.Clone(x.Request.Context())
	req.RequestURI = ""
	req.Close = false
	if c.Method != "" {
		req.Method = c.Method
	}
	query := x.Request.URL.RawQuery
	if c.Query != nil {
		query = c.Query.Encode()
	}
	u.p.setTarget(req, path, query)
	for _, name := range [...]string{"Range", "If-Range", "If-None-Match", "If-Modified-Since", "Expect"} {
		delete(req.Header, name) // they describe the client's copy, which is not the homeserver's
	}
	req.Header["Accept-Encoding"] = []string{"identity"}
	switch {
	case c.Body != nil:
		req.Header["Content-Type"] = []string{"application/json"}
		delete(req.Header, "Content-Encoding")
		req.ContentLength, req.TransferEncoding = int64(len(c.Body)), nil
		req.Body = io.NopCloser(bytes.NewReader(c.Body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(c.Body)), nil }
	case c.Stream != nil:
		setStream(req, c)
	case req.ContentLength == 0:
		req.Body = nil // lets the transport try again on another connection
	}
	resp, err := u.p.trips[u.q.route.lane].RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask the homeserver: %w", u.p.upstreamError(err))
	}
	if err := u.accept(resp); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	if u.q.route.endsSessions && resp.StatusCode/100 == 2 {
		u.p.endSessions(u.q) // before the client gets the answer
	}
	return resp, nil
}

// setStream puts another body into a request. What the client says of its own, in front of it and
// behind it, says nothing of this one: a name, a hash.
func setStream(req *http.Request, c interceptors.Change) {
	for name := range req.Header {
		if strings.HasPrefix(name, "Content-") || strings.HasSuffix(name, "Digest") || name == "Slug" {
			delete(req.Header, name)
		}
	}
	req.Body, req.ContentLength, req.TransferEncoding, req.GetBody, req.Trailer = nil, 0, nil, nil, nil
	if c.Stream == http.NoBody {
		return
	}
	req.Header["Content-Type"] = []string{c.ContentType}
	req.Body, req.ContentLength = io.NopCloser(c.Stream), c.Length
	if p, ok := c.Stream.(pieces); ok {
		req.Body = piecesBody{c.Stream, p}
	}
	if c.Length == 0 {
		req.Body = http.NoBody // a body of unknown length otherwise
	}
}

// accept checks a response that a handler will read.
func (u upstream) accept(resp *http.Response) error {
	endtoend.Remove(resp.Header)
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return apierr.Unreachable(errors.New("the answer is compressed although none was asked for"))
	}
	if u.q.route.bodyAuth {
		return nil
	}
	return u.p.checkUnauthorized(resp)
}

// path builds the path of an exchange with its changes.
func (u upstream) path(x *interceptors.Exchange, c interceptors.Change) (string, error) {
	pattern := x.Endpoint.Pattern
	if c.Pattern != "" {
		pattern = c.Pattern
	}
	params := x.Endpoint.Params
	if len(c.Params) > 0 {
		params = maps.Clone(params)
		maps.Copy(params, c.Params)
	}
	path, err := buildPath(pattern, x.Endpoint.Version, params)
	if err != nil {
		return "", fmt.Errorf("write the path of %s: %w", pattern, err)
	}
	return path, nil
}

// Relay implements interceptors.Upstream.
func (u upstream) Relay(x *interceptors.Exchange, resp *http.Response) error {
	endtoend.Copy(x.Writer.Header(), resp.Header)
	x.Writer.WriteHeader(resp.StatusCode)
	return u.p.copyBody(x.Writer, resp)
}

var (
	errClientGone = errors.New("the client is gone")
	// errBroken means that a response cannot be finished: its connection must break, so that
	// the client does not take it for whole.
	errBroken = errors.New("the homeserver's answer broke off")
)

// copyBody streams a body. One of unknown length is flushed as it comes.
func (p *Proxy) copyBody(w http.ResponseWriter, resp *http.Response) error {
	var flush func() error
	if resp.ContentLength < 0 {
		flush = http.NewResponseController(w).Flush
	}
	if from, ok := resp.Body.(io.WriterTo); ok {
		to := p.writers.get(clientWriter{w, flush})
		defer p.writers.put(to)
		_, err := from.WriteTo(to)
		if last := to.Flush(); err == nil { // also of an answer that broke off
			err = last
		}
		switch {
		case err == nil, errors.Is(err, errClientGone):
			return err
		default:
			return fmt.Errorf("%w: %w", errBroken, err)
		}
	}
	buf := p.buffers.Get()
	defer p.buffers.Put(buf)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return fmt.Errorf("%w: %w", errClientGone, werr)
			}
			if flush != nil {
				_ = flush() // a failed flush shows in the next write
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", errBroken, err)
		}
	}
}

// writerPool holds what collects the small parts of a body that writes itself.
type writerPool struct{ pool sync.Pool }

func (p *writerPool) get(to io.Writer) *bufio.Writer {
	if w, ok := p.pool.Get().(*bufio.Writer); ok {
		w.Reset(to)
		return w
	}
	return bufio.NewWriterSize(to, copyBuffer)
}

func (p *writerPool) put(w *bufio.Writer) {
	w.Reset(nil)
	p.pool.Put(w)
}

// clientWriter writes to a client, and flushes what it wrote if there is flush. It writes as much at
// once as a client must take before limits.idle_timeout ends.
type clientWriter struct {
	to    io.Writer
	flush func() error
}

func (c clientWriter) Write(p []byte) (done int, err error) {
	for done < len(p) {
		n, err := c.to.Write(p[done:min(len(p), done+copyBuffer)])
		if done += n; err != nil {
			return done, fmt.Errorf("%w: %w", errClientGone, err)
		}
		if c.flush != nil {
			_ = c.flush() // a failed flush shows in the next write
		}
	}
	return done, nil
}

// upstreamError returns the client's error for an error of a round trip.
func (p *Proxy) upstreamError(err error) error {
	var own *apierr.Error
	var netErr net.Error
	switch {
	case errors.As(err, &own):
		return err
	case errors.Is(err, errDraining), errors.Is(err, errEndSession), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return apierr.TimedOut(withoutURL(err))
	}
	return apierr.Unreachable(withoutURL(err))
}

// withoutURL removes the URL from an error: it has room IDs and the query.
func withoutURL(err error) error {
	var withURL *url.Error
	if errors.As(err, &withURL) {
		return withURL.Err
	}
	return err
}

// copyBuffer is how much of a body is copied at once, in bytes.
const copyBuffer = 32 << 10

// bufferPool holds the buffers with which bodies are copied.
type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte {
	if buf, ok := b.pool.Get().(*[copyBuffer]byte); ok {
		return buf[:]
	}
	return make([]byte, copyBuffer)
}

func (b *bufferPool) Put(buf []byte) { b.pool.Put((*[copyBuffer]byte)(buf)) }
