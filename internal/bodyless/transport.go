package bodyless

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Options are the settings of a [Transport].
type Options struct {
	// Dial makes a connection, within its own time.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is for https; nil means the system's roots. The handshake may take HandshakeWait.
	TLS           *tls.Config
	HandshakeWait time.Duration
	// WriteWait is how long the server may take nothing of a request, HeaderWait how long it may
	// take for the first byte of its answer and for its header; zero means no limit.
	WriteWait, HeaderWait time.Duration
	// IdleFor is how long a connection is kept that nobody uses, and MaxIdle how many are.
	IdleFor time.Duration
	MaxIdle int
	// MaxHeader bounds the header of an answer, and ReadBuffer is what is read at once; in bytes.
	MaxHeader  int64
	ReadBuffer int
}

// Transport is an [http.RoundTripper] to one server for what [Takes] allows.
type Transport struct {
	o       Options
	idle    idleConns
	writers sync.Pool // of *bufio.Writer
}

// New makes a Transport.
func New(o Options) *Transport {
	return &Transport{o: o, idle: idleConns{keepFor: o.IdleFor, most: o.MaxIdle}}
}

// Close closes the connections that nobody uses. From then on none is kept.
func (t *Transport) Close() { t.idle.close() }

// Takes reports whether a request may be made by a [Transport]: it has no body and changes nothing,
// so that it can be sent again when a kept connection turns out to be dead. It is false for every
// request where the system cannot tell whether a kept connection is quiet, and for a host whose name
// is not ASCII, which net/http knows how to write.
func Takes(r *http.Request) bool {
	foreign := func(c rune) bool { return c >= utf8.RuneSelf }
	return canLook && strings.IndexFunc(r.URL.Host, foreign) < 0 && (r.Method == http.MethodGet || r.Method == http.MethodHead) &&
		r.ContentLength == 0 && (r.Body == nil || r.Body == http.NoBody)
}

var (
	errNothingCame = errors.New("the connection ended before an answer came")
	errLongHeader  = errors.New("the header of the answer is too long")
	errGivenUp     = errors.New("the answer was given up")
)

// RoundTrip implements [http.RoundTripper]. What comes before the answer (1xx) goes to the
// [httptrace.ClientTrace] of the request's context. An error after the end of that context is its
// cause.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if kept := t.idle.take(); kept != nil {
		resp, err := t.exchange(req, kept)
		if !errors.Is(err, errNothingCame) || req.Context().Err() != nil {
			return resp, err
		}
	}
	c, err := t.dial(req)
	if err != nil {
		if req.Context().Err() != nil {
			err = context.Cause(req.Context())
		}
		return nil, err
	}
	return t.exchange(req, c)
}

// dial makes a connection to the server of a request.
func (t *Transport) dial(req *http.Request) (*conn, error) {
	ctx, address := req.Context(), req.URL.Host
	if req.URL.Port() == "" {
		address = net.JoinHostPort(req.URL.Hostname(), map[string]string{"http": "80", "https": "443"}[req.URL.Scheme])
	}
	raw, err := t.o.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	c := &conn{Conn: raw, raw: raw}
	c.in = bufio.NewReaderSize(c, t.o.ReadBuffer)
	if req.URL.Scheme != "https" {
		return c, nil
	}
	config := t.o.TLS.Clone() // a nil one is nil again
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	config.ServerName = req.URL.Hostname()
	c.below = &below{Conn: raw}
	safe := tls.Client(c.below, config)
	ctx, cancel := context.WithTimeout(ctx, t.o.HandshakeWait)
	defer cancel()
	if err := safe.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("TLS handshake: %w", err), raw.Close())
	}
	c.Conn = safe
	return c, nil
}

// exchange sends a request and reads the header of its answer. The connection is the answer's then,
// and closed after an error.
func (t *Transport) exchange(req *http.Request, c *conn) (*http.Response, error) {
	ctx := req.Context()
	stop := context.AfterFunc(ctx, c.abort)
	resp, err := t.ask(ctx, req, c)
	if err != nil {
		stop()
		c.abort()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	b := &body{ctx: ctx, to: t, conn: c, from: resp.Body, stop: stop, reusable: !resp.Close && resp.StatusCode != http.StatusSwitchingProtocols}
	if resp.Body == http.NoBody {
		b.end(true)
	} else {
		resp.Body = b
	}
	return resp, nil
}

func (t *Transport) ask(ctx context.Context, req *http.Request, c *conn) (*http.Response, error) {
	now := time.Now()
	c.writeWithin(now, t.o.WriteWait)
	if err := t.send(req, c); err != nil {
		return nil, fmt.Errorf("%w: %w", errNothingCame, err)
	}
	c.ReadWithin(now, t.o.HeaderWait)
	c.limited, c.left = true, t.o.MaxHeader
	if _, err := c.in.Peek(1); err != nil {
		if timedOut(err) {
			return nil, fmt.Errorf("wait for the answer: %w", err)
		}
		return nil, fmt.Errorf("%w: %w", errNothingCame, err)
	}
	for {
		resp, err := http.ReadResponse(c.in, req)
		if err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
		if resp.StatusCode/100 != 1 || resp.StatusCode == http.StatusSwitchingProtocols {
			c.limited = false
			return resp, nil
		}
		if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, fmt.Errorf("pass an early answer on: %w", err)
			}
			c.left = t.o.MaxHeader
		}
	}
}

// send writes a request.
func (t *Transport) send(req *http.Request, c *conn) error {
	w, ok := t.writers.Get().(*bufio.Writer)
	if !ok {
		w = bufio.NewWriter(nil)
	}
	w.Reset(c.Conn)
	err := req.Write(w)
	if err == nil {
		err = w.Flush()
	}
	w.Reset(nil)
	t.writers.Put(w)
	return err //nolint:wrapcheck // the caller wraps it
}

// body is the body of an answer. It has the connection until it ends.
type body struct {
	ctx      context.Context //nolint:containedctx // that of the exchange, which the body is a part of
	to       *Transport
	conn     *conn
	from     io.Reader
	stop     func() bool
	reusable bool
	over     error // what reading ended with
	ended    atomic.Bool
}

// ReadWithin bounds the next reads; zero means no bound. It is moved by a tenth or more only. Of a body
// that has ended it bounds nothing: the connection may be another exchange's.
func (b *body) ReadWithin(now time.Time, wait time.Duration) {
	if !b.ended.Load() {
		b.conn.ReadWithin(now, wait)
	}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	switch {
	case b.over != nil:
		return 0, b.over
	case b.ended.Load():
		return 0, errGivenUp
	}
	n, err := b.from.Read(p)
	if err == nil {
		return n, nil
	}
	whole := errors.Is(err, io.EOF)
	b.end(whole)
	if !whole && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	b.over = err
	return n, err //nolint:wrapcheck // an io.Reader passes errors on
}

// Close implements io.Closer. It may be called during a Read, which it ends.
func (b *body) Close() error {
	b.end(false)
	return nil
}

// end gives the connection back, or closes it.
func (b *body) end(whole bool) {
	if !b.ended.CompareAndSwap(false, true) {
		return
	}
	mine := b.stop()
	if !whole || !mine || !b.reusable || b.conn.holdsMore() || !b.to.idle.put(b.conn) {
		b.conn.abort()
	}
}
