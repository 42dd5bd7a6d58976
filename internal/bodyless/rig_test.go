package bodyless_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"e2ee-proxy/internal/bodyless"
	"e2ee-proxy/internal/testproc"
)

// server is a server that answers as a test has it.
type server struct {
	t        *testing.T
	url      string
	requests atomic.Int32
	conns    atomic.Int32
	open     atomic.Int32
}

// serve starts one. talk has a connection, of which it is told the number, from 1, and which is
// closed after it.
func serve(t *testing.T, talk func(s *server, n int, c net.Conn, in *bufio.Reader)) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, url: "http://" + ln.Addr().String()}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n := int(s.conns.Add(1))
			s.open.Add(1)
			wg.Go(func() {
				defer s.open.Add(-1)
				defer context.AfterFunc(ctx, func() { _ = c.Close() })()
				defer func() { _ = c.Close() }()
				talk(s, n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); cancel(); wg.Wait() })
	return s
}

// request reads a request, and reports whether there is one.
func (s *server) request(in *bufio.Reader) (*http.Request, bool) {
	r, err := http.ReadRequest(in)
	if err == nil {
		s.requests.Add(1)
	}
	return r, err == nil
}

// always answers all requests of a connection in the same way.
func always(answer string) func(*server, int, net.Conn, *bufio.Reader) {
	return func(s *server, _ int, c net.Conn, in *bufio.Reader) {
		for {
			if _, ok := s.request(in); !ok {
				return
			}
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	}
}

// transport returns a transport that ends with the test. change may be nil.
func transport(t *testing.T, change func(*bodyless.Options)) *bodyless.Transport {
	t.Helper()
	o := bodyless.Options{
		Dial: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, HandshakeWait: 10 * time.Second, WriteWait: 10 * time.Second,
		HeaderWait: 10 * time.Second, IdleFor: 10 * time.Second, MaxIdle: 8, MaxHeader: 4 << 10, ReadBuffer: 1 << 10,
	}
	if change != nil {
		change(&o)
	}
	tr := bodyless.New(o)
	t.Cleanup(tr.Close)
	return tr
}

// get makes a request and reads its answer.
func get(ctx context.Context, tr http.RoundTripper, url string) (status int, text string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	raw, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw), errors.Join(err, resp.Body.Close())
}

// wantText makes a request that must be answered with a text.
func wantText(t *testing.T, tr http.RoundTripper, url, want string) {
	t.Helper()
	if status, got, err := get(t.Context(), tr, url); err != nil || status != http.StatusOK || got != want {
		t.Fatalf("%d %q, %v; want %q", status, got, err, want)
	}
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := testproc.Await(ctx, func(context.Context) error {
		if holds() {
			return nil
		}
		return errors.New("not yet")
	}); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
