package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Waits is how long the homeserver may take for the first byte of its answer. The zero
// value of a field means its default.
type Waits struct {
	// Quick is for requests that it answers by itself; default 60 s.
	Quick time.Duration
	// Slow is for requests that may wait for other homeservers; default 10 min.
	Slow time.Duration
	// Poll is added to the timeout of a long poll; default 10 min, because a first sync of a
	// large account takes minutes.
	Poll time.Duration
	// Dial is for a connection; default 10 s.
	Dial time.Duration
}

func (w Waits) withDefaults() Waits {
	set := func(to *time.Duration, d time.Duration) {
		if *to == 0 {
			*to = d
		}
	}
	set(&w.Quick, 60*time.Second)
	set(&w.Slow, 10*time.Minute)
	set(&w.Poll, 10*time.Minute)
	set(&w.Dial, 10*time.Second)
	return w
}

func newDialer(wait time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: wait, KeepAlive: 15 * time.Second}
}

// NewTransport makes a transport to a homeserver: HTTP/1.1, many idle connections, no
// redirects, no proxies, no compression. caFile names further root certificates in PEM form
// and may be empty. headerWait is how long the server may take for the first byte of its
// answer; zero means no limit. idle is how long it may take nothing of what is sent to it.
func NewTransport(caFile string, dialWait, headerWait, idle time.Duration) (*http.Transport, error) {
	dialer := newDialer(dialWait)
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err //nolint:wrapcheck // the transport says what it dialled
			}
			return &writeDeadlineConn{conn, idle}, nil
		},
		TLSHandshakeTimeout:    dialWait,
		ResponseHeaderTimeout:  headerWait,
		ExpectContinueTimeout:  time.Second,
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    1024,
		IdleConnTimeout:        30 * time.Second, // shorter than any server's, so that no request meets a closing connection
		DisableCompression:     true,
		MaxResponseHeaderBytes: 1 << 20,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(caFile) //nolint:gosec // G304: the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read the homeserver's CA file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the homeserver's CA file: %s has no certificate", caFile)
	}
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return t, nil
}

// writeDeadlineConn is a connection whose other end must take what is written to it, so that a
// homeserver that stops reading does not hold an upload for ever.
type writeDeadlineConn struct {
	net.Conn
	idle time.Duration
}

// The pieces in which a body is sent on: small ones take little memory, and large ones are worth
// it where the body comes faster than they fill.
const (
	firstPiece = 32 << 10
	mostPiece  = 256 << 10
)

// pieces is a body that has its pieces in memory, so that they need not be copied.
type pieces interface {
	// Piece returns n bytes at most. done is called when they were sent.
	Piece(n int64) (data []byte, done func(), err error)
}

// piecesBody is such a body as that of a request: without an end of its own.
type piecesBody struct {
	io.Reader
	pieces
}

func (piecesBody) Close() error { return nil }

// ReadFrom implements io.ReaderFrom, which [http.Transport] uses for bodies.
func (c *writeDeadlineConn) ReadFrom(from io.Reader) (done int64, err error) {
	if limited, ok := from.(*io.LimitedReader); ok { // a body with a length
		switch body := limited.R.(type) {
		case pieces:
			return c.readPieces(limited, body)
		case *bytes.Reader:
			if int64(body.Len()) <= limited.N { // all of it is to be sent, and is in memory
				done, err = body.WriteTo(pieceWriter{c})
				limited.N -= done
				return done, err //nolint:wrapcheck // the connection's own
			}
		}
	}
	buf := make([]byte, firstPiece)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			sent, failed := c.Write(buf[:n])
			done += int64(sent)
			if failed != nil {
				return done, failed
			}
		}
		switch {
		case err == io.EOF:
			return done, nil
		case err != nil:
			return done, err //nolint:wrapcheck // the reader's own
		case n == len(buf) && n < mostPiece:
			buf = make([]byte, mostPiece)
		}
	}
}

const (
	// sentInTurn is how many pieces of a body are got and sent in turn. Of what has more, pieces are
	// sent beside getting the next, up to piecesAhead of which may wait.
	sentInTurn  = 2
	piecesAhead = 4
)

// readPieces is ReadFrom for a body that has its pieces in memory.
func (c *writeDeadlineConn) readPieces(limited *io.LimitedReader, from pieces) (done int64, err error) {
	for n := 0; limited.N > 0; n++ {
		if n == sentInTurn {
			more, err := c.readPiecesBeside(limited, from)
			return done + more, err
		}
		data, sent, err := from.Piece(limited.N)
		limited.N -= int64(len(data))
		n, failed := c.Write(data)
		done += int64(n)
		sent()
		switch {
		case failed != nil:
			return done, failed
		case errors.Is(err, io.EOF):
			return done, nil
		case err != nil:
			return done, err //nolint:wrapcheck // the body's own
		}
	}
	return done, nil
}

// readPiecesBeside is readPieces with a goroutine that sends, and ends with it.
func (c *writeDeadlineConn) readPiecesBeside(limited *io.LimitedReader, from pieces) (done int64, err error) {
	type piece struct {
		data []byte
		sent func()
	}
	var failed atomic.Pointer[error]
	ready := make(chan piece, piecesAhead)
	var sender sync.WaitGroup
	sender.Go(func() {
		for p := range ready {
			if failed.Load() == nil {
				n, err := c.Write(p.data)
				if done += int64(n); err != nil {
					failed.Store(&err)
				}
			}
			p.sent()
		}
	})
	for err == nil && limited.N > 0 && failed.Load() == nil {
		var p piece
		p.data, p.sent, err = from.Piece(limited.N)
		limited.N -= int64(len(p.data))
		ready <- p
	}
	close(ready)
	sender.Wait()
	switch why := failed.Load(); {
	case why != nil:
		return done, *why
	case errors.Is(err, io.EOF):
		return done, nil
	}
	return done, err //nolint:wrapcheck // the body's own
}

// pieceWriter writes what is in memory piece by piece, so that the other end has time for each.
type pieceWriter struct{ to io.Writer }

// Write implements io.Writer.
func (w pieceWriter) Write(p []byte) (done int, err error) {
	for err == nil && len(p) > 0 {
		var n int
		n, err = w.to.Write(p[:min(len(p), mostPiece)])
		done, p = done+n, p[n:]
	}
	return done, err //nolint:wrapcheck // the connection's own
}

// Write implements net.Conn.
func (c *writeDeadlineConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err //nolint:wrapcheck // the connection's own
	}
	return c.Conn.Write(p) //nolint:wrapcheck // the connection's own
}

var (
	errDraining = errors.New("the proxy is shutting down")
	errPollWait = fmt.Errorf("the long poll was not answered: %w", context.DeadlineExceeded)
	errStalled  = fmt.Errorf("the answer stood still: %w", context.DeadlineExceeded)
)

// progressTransport is a round trip whose answer, once begun, must make progress: at least one byte
// within idle, and the minimum rate on average. The time that the client needs does not
// count.
type progressTransport struct {
	to   http.RoundTripper
	idle time.Duration
	pool *watchPool
}

// RoundTrip implements http.RoundTripper.
func (m *progressTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := m.to.RoundTrip(req)
	if err != nil {
		return nil, err //nolint:wrapcheck // an http.RoundTripper passes errors on
	}
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols: // nobody asked for an upgrade
		return nil, errors.Join(errUpgrade, resp.Body.Close())
	case resp.Body != http.NoBody:
		resp.Body = m.pool.watch(resp.Body, m.idle)
	}
	return resp, nil
}

// progressBody is the body of a progressTransport's answer.
type progressBody struct {
	io.ReadCloser
	bound readBound   // bounds a read, where the body can do that itself
	timer *time.Timer // runs during a read, where it cannot
	idle  time.Duration
	left  time.Duration // the time left for reading; grows with what comes
	late  bool          // the timer has run out, once
}

// readBound is a body that bounds its own reads.
type readBound interface {
	ReadWithin(now time.Time, wait time.Duration)
}

// Read implements io.Reader. After the deadline it returns errStalled.
func (b *progressBody) Read(p []byte) (int, error) {
	wait := max(min(b.idle, b.left), 1)
	started := time.Now()
	if b.bound != nil {
		b.bound.ReadWithin(started, wait)
		n, err := b.ReadCloser.Read(p)
		b.left += time.Duration(n)*time.Second/minRate - time.Since(started)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = errStalled
		}
		return n, err //nolint:wrapcheck // an io.Reader passes errors on
	}
	if b.timer == nil {
		// http.Transport allows closing a body during a read, which ends the read.
		b.timer = time.AfterFunc(wait, func() { _ = b.Close() })
	} else {
		b.timer.Reset(wait)
	}
	n, err := b.ReadCloser.Read(p)
	late := !b.timer.Stop()
	b.left += time.Duration(n)*time.Second/minRate - time.Since(started)
	if b.late = b.late || late; late && err != io.EOF {
		err = errStalled
	}
	return n, err //nolint:wrapcheck // an io.Reader passes errors on
}

// watchPool holds progressBodies, which have a timer each, to be used again.
type watchPool struct{ pool sync.Pool }

// watch returns one for a body.
func (w *watchPool) watch(body io.ReadCloser, idle time.Duration) *progressBody {
	b, ok := w.pool.Get().(*progressBody)
	if !ok {
		b = new(progressBody)
	}
	b.ReadCloser, b.idle, b.left = body, idle, 2*idle
	b.bound, _ = body.(readBound)
	return b
}

// keep takes one back that nobody reads or closes any more. One whose timer has run out could still
// be about to close what it watches, and is not used again.
func (w *watchPool) keep(b *progressBody) {
	if b.late {
		return
	}
	b.ReadCloser, b.bound = nil, nil
	w.pool.Put(b)
}

// pollTransport is the round trip of a long poll: it may wait as long as the client asked, and is
// cancelled when the proxy shuts down, but only while nothing has come.
type pollTransport struct {
	to       http.RoundTripper
	draining context.Context
	grace    time.Duration
}

// RoundTrip implements http.RoundTripper.
func (p *pollTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	stop := context.AfterFunc(p.draining, func() { cancel(errDraining) })
	timer := time.AfterFunc(p.grace+pollTimeout(req.URL.RawQuery), func() { cancel(errPollWait) })
	resp, err := p.to.RoundTrip(req.WithContext(ctx))
	called := !timer.Stop()
	called = !stop() || called
	if err == nil && !called {
		resp.Request = req
		resp.Body = &cancelBody{ReadCloser: resp.Body, cancel: cancel}
		return resp, nil
	}
	if err == nil {
		err = resp.Body.Close() // it came at the moment of cancelling
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	return nil, fmt.Errorf("long poll: %w", err)
}

// pollTimeout returns the timeout of a long poll, an hour at most.
func pollTimeout(rawQuery string) time.Duration {
	for pair := range strings.SplitSeq(rawQuery, "&") {
		if value, ok := strings.CutPrefix(pair, "timeout="); ok {
			ms, err := strconv.ParseInt(value, 10, 64)
			if err == nil && ms > 0 {
				return time.Duration(min(ms, time.Hour.Milliseconds())) * time.Millisecond
			}
		}
	}
	return 0
}

// cancelBody cancels the context of a response when its body is closed.
type cancelBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (c *cancelBody) Close() error {
	err := c.ReadCloser.Close()
	c.cancel(nil)
	return err //nolint:wrapcheck // it is the body's
}
