package bodyless

import (
	"bufio"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// conn is a connection to the server.
type conn struct {
	net.Conn // with TLS, if it has it
	raw      net.Conn
	in       *bufio.Reader
	below    *below // TLS, if it has it

	limited         bool  // a header is read
	left            int64 // bytes that it may still have
	readBy, writeBy time.Time
	idleSince       time.Time
}

// Read implements io.Reader, for in.
func (c *conn) Read(p []byte) (int, error) {
	if !c.limited {
		return c.Conn.Read(p) //nolint:wrapcheck // the connection's own
	}
	if c.left <= 0 {
		return 0, errLongHeader
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err //nolint:wrapcheck // the connection's own
}

// below is the connection as TLS has it. While it is held nothing is read from it: what TLS returns
// then came before.
type below struct {
	net.Conn
	held bool
}

// Read implements io.Reader.
func (b *below) Read(p []byte) (int, error) {
	if b.held {
		return 0, os.ErrDeadlineExceeded // TLS can go on after that
	}
	return b.Conn.Read(p) //nolint:wrapcheck // the connection's own
}

// holdsMore reports whether more than the answer was read: TLS reads ahead, and quiet does not see
// that.
func (c *conn) holdsMore() bool {
	if c.below == nil || c.in.Buffered() > 0 {
		return c.in.Buffered() > 0
	}
	c.below.held = true
	n, err := c.Conn.Read(make([]byte, 1))
	c.below.held = false
	return n > 0 || !timedOut(err)
}

// abort ends the connection, whoever uses it.
func (c *conn) abort() { _ = c.raw.Close() } // nothing of it is needed any more

// ReadWithin sets until when something must come. A deadline costs more than a small answer's
// whole way: the connection is only told of one that is sooner, or later by a tenth.
func (c *conn) ReadWithin(now time.Time, wait time.Duration) {
	if moves(&c.readBy, now, wait) {
		_ = c.raw.SetReadDeadline(c.readBy) // not every connection has deadlines; then there is none
	}
}

func (c *conn) writeWithin(now time.Time, wait time.Duration) {
	if moves(&c.writeBy, now, wait) {
		_ = c.raw.SetWriteDeadline(c.writeBy) // as above
	}
}

// moves reports whether a deadline has to be moved, and moves it.
func moves(by *time.Time, now time.Time, wait time.Duration) bool {
	var at time.Time
	if wait > 0 {
		at = now.Add(wait)
	}
	if by.IsZero() != at.IsZero() || at.Before(*by) || at.Sub(*by) > wait/10 {
		*by = at
		return true
	}
	return false
}

func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// idleConns are the connections that nobody uses, the last used first.
type idleConns struct {
	keepFor time.Duration
	most    int

	mu     sync.Mutex
	conns  []*conn // the longest unused first
	timer  *time.Timer
	closed bool
}

// take returns a connection on which nothing has come, nil when there is none.
func (i *idleConns) take() *conn {
	for {
		c := i.last()
		if c == nil || quiet(c.raw) {
			return c
		}
		c.abort()
	}
}

func (i *idleConns) last() *conn {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := len(i.conns) - 1
	if n < 0 {
		return nil
	}
	c := i.conns[n]
	i.conns[n] = nil
	i.conns = i.conns[:n]
	return c
}

// put keeps a connection, and reports whether it does.
func (i *idleConns) put(c *conn) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || len(i.conns) >= i.most {
		return false
	}
	c.idleSince = time.Now()
	i.conns = append(i.conns, c)
	if i.timer == nil {
		i.timer = time.AfterFunc(i.keepFor, i.drop)
	}
	return true
}

// drop closes what was not used for too long. It is called again while there is anything.
func (i *idleConns) drop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	now, old := time.Now(), 0
	for old < len(i.conns) && now.Sub(i.conns[old].idleSince) >= i.keepFor {
		i.conns[old].abort()
		old++
	}
	i.conns = slices.Delete(i.conns, 0, old) // which forgets them
	i.timer = nil
	if len(i.conns) > 0 && !i.closed {
		i.timer = time.AfterFunc(i.keepFor-now.Sub(i.conns[0].idleSince), i.drop)
	}
}

func (i *idleConns) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	for _, c := range i.conns {
		c.abort()
	}
	i.conns = nil
	if i.timer != nil {
		i.timer.Stop()
	}
}
