package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
)

// The two ends of a file's way, which share the processors with the proxy and do as little as they
// can: what they send comes from a file, by sendfile, and what they get is thrown away by the
// system.

// thrownAway is from how much on a read is one of a file, in bytes. Everything else is read with
// less.
const thrownAway = 1 << 20

// end is a connection of one of them.
type end struct {
	*net.TCPConn
	discards *atomic.Bool
}

// Read implements net.Conn. A long read returns how much came, and nothing of it.
func (e end) Read(p []byte) (int, error) {
	if len(p) < thrownAway || !e.discards.Load() {
		return e.TCPConn.Read(p)
	}
	raw, err := e.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, failed = discard(fd, p)
		return !waits(failed)
	})
	switch {
	case err != nil:
		return 0, err
	case errors.Is(failed, errors.ErrUnsupported):
		return e.TCPConn.Read(p)
	case failed == nil && n == 0:
		return 0, io.EOF
	}
	return n, failed
}

// endListener makes ends.
type endListener struct {
	net.Listener
	discards *atomic.Bool
}

func (l endListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if tcp, ok := conn.(*net.TCPConn); ok {
		return end{tcp, l.discards}, nil
	}
	return conn, err
}

// newEnd returns the client's.
func newEnd(tb testing.TB) *http.Transport {
	tb.Helper()
	var always atomic.Bool
	always.Store(true)
	t := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok {
			return end{tcp, &always}, nil
		}
		return conn, err
	}}
	tb.Cleanup(t.CloseIdleConnections)
	return t
}

// away takes what an end gets.
type away []byte

func newAway() away { return make(away, thrownAway) }

// count reads to the end and returns how much that was.
func (a away) count(from io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, from, a)
}

// newFile returns the name of a file that write writes.
func newFile(tb testing.TB, write func(*os.File) error) string {
	tb.Helper()
	f, err := os.CreateTemp(tb.TempDir(), "")
	if err == nil {
		err = errors.Join(write(f), f.Close())
	}
	if err != nil {
		tb.Fatal(err)
	}
	return f.Name()
}
