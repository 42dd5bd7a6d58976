package bodyless_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"e2ee-proxy/internal/bodyless"
)

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// What has a body, or changes something, goes another way: it cannot be sent again.
func TestTakes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		method string
		body   io.Reader
		want   bool
	}{
		{http.MethodGet, nil, true},
		{http.MethodHead, nil, true},
		{http.MethodGet, http.NoBody, true},
		{http.MethodGet, strings.NewReader("{}"), false},
		{http.MethodGet, io.NopCloser(strings.NewReader("")), false}, // of unknown length
		{http.MethodPost, nil, false},
		{http.MethodPut, nil, false},
		{http.MethodDelete, nil, false},
		{http.MethodOptions, nil, false},
		{http.MethodPatch, nil, false},
	} {
		r := httptest.NewRequest(tc.method, "http://hs.test/", tc.body)
		if r.Body != http.NoBody && tc.body == nil {
			r.Body = nil
		}
		if got := bodyless.Takes(r); got != tc.want {
			t.Errorf("%s with %T: %t", tc.method, tc.body, got)
		}
	}
	if bodyless.Takes(httptest.NewRequest(http.MethodGet, "http://bücher.test/", http.NoBody)) {
		t.Error("a name that no resolver knows in this form")
	}
}

// How the end of each kind of answer is found, and whether the connection may be used again.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, method, answer, want string
		kept                       bool
	}{
		{"a length", http.MethodGet, ok, "ok", true},
		{"chunks", http.MethodGet, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", "ok", true},
		{"no body", http.MethodGet, "HTTP/1.1 204 No Content\r\n\r\n", "", true},
		{"an empty body", http.MethodGet, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true},
		{"not modified", http.MethodGet, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "", true},
		{"the header alone", http.MethodHead, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", "", true},
		{"closing", http.MethodGet, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", "ok", false},
		{"HTTP/1.0", http.MethodGet, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", false},
		{"more than the body", http.MethodGet, ok + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", "ok", false},
		{"more than no body", http.MethodGet, "HTTP/1.1 204 No Content\r\n\r\nforged", "", false},
		{"another protocol", http.MethodGet, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, always(tc.answer))
			tr := transport(t, nil)
			for range 3 {
				r, err := http.NewRequestWithContext(t.Context(), tc.method, s.url, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := tr.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(resp.Body); err != nil || string(got) != tc.want {
					t.Errorf("%q, %v", got, err)
				}
				if err := resp.Body.Close(); err != nil {
					t.Error(err)
				}
			}
			if n, want := s.conns.Load(), map[bool]int32{true: 1, false: 3}[tc.kept]; n != want || s.requests.Load() != 3 {
				t.Errorf("%d requests on %d connections, not on %d", s.requests.Load(), n, want)
			}
		})
	}
}

// A body that ends with its connection, and trailers.
func TestEndsOfBodies(t *testing.T) {
	t.Parallel()
	until := serve(t, func(s *server, _ int, c net.Conn, in *bufio.Reader) {
		if _, there := s.request(in); there {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nall that comes")
		}
	})
	wantText(t, transport(t, nil), until.url, "all that comes")

	half := serve(t, func(s *server, _ int, c net.Conn, in *bufio.Reader) {
		if _, there := s.request(in); there {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
		}
	})
	if _, got, err := get(t.Context(), transport(t, nil), half.url); got != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q, %v", got, err)
	}

	trailers := serve(t, always("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-After\r\n\r\n2\r\nok\r\n0\r\nX-After: all\r\n\r\n"))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, trailers.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport(t, nil).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "ok" || resp.Trailer.Get("X-After") != "all" {
		t.Errorf("%q and %v, %v", got, resp.Trailer, err)
	}
}

// Attack: a server, or what stands before it, says something on a connection that nobody has asked
// on, so that the next request, of somebody else, is answered with it.
func TestAttackAnswerBeforeItsRequest(t *testing.T) {
	t.Parallel()
	said := make(chan struct{})
	s := serve(t, func(s *server, n int, c net.Conn, in *bufio.Reader) {
		for {
			if _, there := s.request(in); !there {
				return
			}
			if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", n); err != nil {
				return
			}
			if n == 1 {
				<-said
				if _, err := io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 6\r\n\r\nforged"); err != nil {
					return
				}
				said <- struct{}{}
			}
		}
	})
	tr := transport(t, nil)
	wantText(t, tr, s.url, "1")
	said <- struct{}{}
	<-said
	wantText(t, tr, s.url, "2")
}

// A server ends a connection while nobody uses it, or when the next request is there. What was not
// answered is sent again, once, on a new one.
func TestKeptConnectionEnds(t *testing.T) {
	t.Parallel()
	for _, asked := range []bool{false, true} {
		t.Run(fmt.Sprintf("asked %t", asked), func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(s *server, n int, c net.Conn, in *bufio.Reader) {
				for {
					if _, there := s.request(in); !there {
						return
					}
					if n == 1 && s.requests.Load() == 2 {
						return
					}
					if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", n); err != nil || !asked && n == 1 {
						return
					}
				}
			})
			tr := transport(t, nil)
			wantText(t, tr, s.url, "1")
			if !asked {
				await(t, "the connection is not closed", func() bool { return s.open.Load() == 0 })
			}
			wantText(t, tr, s.url, "2")
			if want := map[bool]int32{false: 2, true: 3}[asked]; s.requests.Load() != want {
				t.Errorf("%d requests, not %d", s.requests.Load(), want)
			}
		})
	}
}

// A new connection that ends without an answer is an error, and nothing is sent again; nor is it
// when some of an answer came.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{"nothing": "", "a part of the header": "HTTP/1.1 200 OK\r\nConte", "no HTTP": "SSH-2.0-x\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(s *server, _ int, c net.Conn, in *bufio.Reader) {
				if _, there := s.request(in); there {
					_, _ = io.WriteString(c, answer)
				}
			})
			if _, _, err := get(t.Context(), transport(t, nil), s.url); err == nil || s.requests.Load() != 1 {
				t.Errorf("%d requests, %v", s.requests.Load(), err)
			}
		})
	}
	kept := serve(t, func(s *server, n int, c net.Conn, in *bufio.Reader) {
		for {
			if _, there := s.request(in); !there {
				return
			}
			if s.requests.Load() == 2 {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConte")
				return
			}
			_, _ = io.WriteString(c, ok)
		}
	})
	tr := transport(t, nil)
	wantText(t, tr, kept.url, "ok")
	if _, _, err := get(t.Context(), tr, kept.url); err == nil || kept.requests.Load() != 2 {
		t.Errorf("after a part of an answer: %d requests, %v", kept.requests.Load(), err)
	}
}

// What waits has an end.
func TestWaits(t *testing.T) {
	t.Parallel()
	silent := serve(t, func(s *server, _ int, _ net.Conn, in *bufio.Reader) {
		for {
			if _, there := s.request(in); !there {
				return
			}
		}
	})
	tr := transport(t, func(o *bodyless.Options) { o.HeaderWait = 20 * time.Millisecond })
	var timeout net.Error
	if _, _, err := get(t.Context(), tr, silent.url); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("a server that says nothing: %v", err)
	}
	await(t, "the connection is not closed", func() bool { return silent.open.Load() == 0 })
	if silent.requests.Load() != 1 {
		t.Errorf("asked %d times", silent.requests.Load())
	}

	endless := serve(t, always("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 8<<10)+"\r\n\r\n"))
	if _, _, err := get(t.Context(), transport(t, nil), endless.url); err == nil {
		t.Error("a header of 8 kB is read")
	}

	stalled := serve(t, func(s *server, _ int, c net.Conn, in *bufio.Reader) {
		if _, there := s.request(in); there {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok")
			_, _ = s.request(in)
		}
	})
	resp := answer(t.Context(), t, transport(t, nil), stalled.url)
	bound, is := resp.Body.(interface {
		ReadWithin(now time.Time, wait time.Duration)
	})
	if !is {
		t.Fatal("a body has no bound")
	}
	bound.ReadWithin(time.Now(), 20*time.Millisecond)
	if got, err := io.ReadAll(resp.Body); string(got) != "ok" || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v", got, err)
	}
}

// answer makes a request and returns its answer, of which the body is not read.
func answer(ctx context.Context, t *testing.T, tr http.RoundTripper, url string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

var errLeft = errors.New("the client is gone")

// Who gives up gets the reason, while nothing has come and in the middle of a body, and the
// connection is nobody's.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	for _, begun := range []string{"", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"} {
		asked := make(chan struct{}, 1)
		s := serve(t, func(s *server, _ int, c net.Conn, in *bufio.Reader) {
			for {
				if _, there := s.request(in); !there {
					return
				}
				if _, err := io.WriteString(c, begun); err != nil {
					return
				}
				asked <- struct{}{}
			}
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { <-asked; cancel(errLeft) }()
		if _, _, err := get(ctx, transport(t, nil), s.url); !errors.Is(err, errLeft) {
			t.Errorf("%q: %v", begun, err)
		}
		await(t, "the connection is not closed", func() bool { return s.open.Load() == 0 })
	}
}

// So does who gives up before there is a connection.
func TestGivingUpBeforeItBegins(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	tr := transport(t, func(o *bodyless.Options) {
		o.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			cancel(errLeft)
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	if _, _, err := get(ctx, tr, "http://hs.test/"); !errors.Is(err, errLeft) {
		t.Error(err)
	}
}

// A body may be closed while it is read, which ends the read.
func TestCloseDuringRead(t *testing.T) {
	t.Parallel()
	s := serve(t, always("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"))
	resp := answer(t.Context(), t, transport(t, nil), s.url)
	if _, err := io.ReadFull(resp.Body, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, err := resp.Body.Read(make([]byte, 1))
		read <- err
	}()
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the read ended with %v", err)
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a later read ends with %v", err)
	}
}

// What is closed before its end leaves a rest, which is no part of the next answer, and is read by
// nobody.
func TestClosedBeforeItsEnd(t *testing.T) {
	t.Parallel()
	for _, read := range []int{2, 4} { // of 4 that are there
		closedBeforeItsEnd(t, read)
	}
}

func closedBeforeItsEnd(t *testing.T, read int) {
	t.Helper()
	rest := make(chan struct{})
	s := serve(t, func(s *server, n int, c net.Conn, in *bufio.Reader) {
		for {
			if _, there := s.request(in); !there {
				return
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
			if n == 1 {
				<-rest
			}
			if _, err := io.WriteString(c, " more"); err != nil {
				return
			}
		}
	})
	tr := transport(t, nil)
	resp := answer(t.Context(), t, tr, s.url)
	if _, err := io.ReadFull(resp.Body, make([]byte, read)); err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := resp.Body.Read(make([]byte, 2)); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%d bytes are read, %v", n, err)
	}
	next := answer(t.Context(), t, tr, s.url)
	close(rest)
	if got, err := io.ReadAll(next.Body); err != nil || string(got) != "half more" || s.conns.Load() != 2 {
		t.Errorf("the next reads %q on connection %d, %v", got, s.conns.Load(), err)
	}
}

// Whoever goes on with an answer that is over disturbs nobody who has its connection now.
func TestAnswerThatIsOver(t *testing.T) {
	t.Parallel()
	s := serve(t, always(ok))
	tr := transport(t, nil)
	first := answer(t.Context(), t, tr, s.url)
	if _, err := io.ReadAll(first.Body); err != nil {
		t.Fatal(err)
	}
	second := answer(t.Context(), t, tr, s.url)
	if n, err := first.Body.Read(make([]byte, 9)); n != 0 || err != io.EOF {
		t.Errorf("it reads %d bytes, %v", n, err)
	}
	if err := first.Body.Close(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(second.Body); err != nil || string(got) != "ok" || s.conns.Load() != 1 {
		t.Errorf("the other reads %q on %d connections, %v", got, s.conns.Load(), err)
	}
}

// Nor does a bound on it, which comes before each read: who waits for a poll's answer would be told that
// it does not come.
func TestBoundOfAnAnswerThatIsOver(t *testing.T) {
	t.Parallel()
	asked, goOn := make(chan struct{}), make(chan struct{})
	s := serve(t, func(s *server, _ int, c net.Conn, in *bufio.Reader) {
		for {
			if _, there := s.request(in); !there {
				return
			}
			if s.requests.Load() == 2 {
				close(asked)
				<-goOn
			}
			_, _ = io.WriteString(c, ok)
		}
	})
	tr := transport(t, func(o *bodyless.Options) { o.HeaderWait = 0 })
	first := answer(t.Context(), t, tr, s.url)
	if _, err := io.ReadAll(first.Body); err != nil {
		t.Fatal(err)
	}
	go func() {
		<-asked
		first.Body.(interface {
			ReadWithin(now time.Time, wait time.Duration)
		}).ReadWithin(time.Now().Add(-time.Hour), time.Second)
		close(goOn)
	}()
	wantText(t, tr, s.url, "ok")
	if s.conns.Load() != 1 {
		t.Errorf("%d connections", s.conns.Load())
	}
}

// Connections that nobody uses are closed in the end, and at once when the transport is.
func TestUnusedConnections(t *testing.T) {
	t.Parallel()
	s := serve(t, always(ok))
	tr := transport(t, func(o *bodyless.Options) { o.IdleFor, o.MaxIdle = 20*time.Millisecond, 2 })
	wantText(t, tr, s.url, "ok")
	await(t, "it is kept", func() bool { return s.open.Load() == 0 })

	tr = transport(t, func(o *bodyless.Options) { o.MaxIdle = 2 })
	var all []*http.Response
	for range 3 {
		all = append(all, answer(t.Context(), t, tr, s.url))
	}
	for _, resp := range all {
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "more are kept than there may be", func() bool { return s.open.Load() == 2 })
	tr.Close()
	await(t, "they are kept", func() bool { return s.open.Load() == 0 })
	wantText(t, tr, s.url, "ok")
	await(t, "one is kept after the end", func() bool { return s.open.Load() == 0 })
}

// What was closed is not held any more: after a rush it would be a thousand buffers.
func TestUnusedConnectionsAreForgotten(t *testing.T) {
	t.Parallel()
	s := serve(t, always(ok))
	var forgotten atomic.Int32
	tr := transport(t, func(o *bodyless.Options) {
		o.IdleFor = 20 * time.Millisecond
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			seen := &struct{ *net.TCPConn }{c.(*net.TCPConn)}
			runtime.AddCleanup(seen, func(int) { forgotten.Add(1) }, 0)
			return seen, nil
		}
	})
	wantText(t, tr, s.url, "ok")
	await(t, "it is kept", func() bool { return s.open.Load() == 0 })
	await(t, "it is held", func() bool { runtime.GC(); return forgotten.Load() == 1 })
}

// What comes before an answer is told, and is bounded for who does not listen.
func TestEarlyAnswers(t *testing.T) {
	t.Parallel()
	hint := "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
	s := serve(t, always(strings.Repeat(hint, 2)+ok))
	var told []int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		if h.Get("Link") != "</x>" {
			t.Errorf("%v", h)
		}
		told = append(told, code)
		return nil
	}})
	if _, got, err := get(ctx, transport(t, nil), s.url); err != nil || got != "ok" || len(told) != 2 {
		t.Errorf("%q after %v, %v", got, told, err)
	}
	flood := serve(t, always(strings.Repeat(hint, 1000)+ok))
	if _, _, err := get(t.Context(), transport(t, nil), flood.url); err == nil {
		t.Error("a thousand of them are read")
	}
}

// However many ask at once, give up and break off: each reads the answer to its own request.
func TestEachReadsItsOwnAnswer(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte(r.URL.Path), 1+len(r.URL.Path)*100))
	}))
	t.Cleanup(s.Close)
	tr := transport(t, nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				path := fmt.Sprintf("/%d/%s", i, strings.Repeat(string(rune('a'+j%26)), j))
				ctx, cancel := context.WithCancel(t.Context())
				if j%3 == 0 {
					time.AfterFunc(time.Duration(j)*10*time.Microsecond, cancel)
				}
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
				if err != nil {
					t.Error(err)
				}
				resp, err := tr.RoundTrip(r)
				if err == nil {
					var from io.Reader = resp.Body
					if j%5 == 0 {
						from = io.LimitReader(from, 7)
					}
					got, rerr := io.ReadAll(from)
					if !strings.HasPrefix(strings.Repeat(path, 1+len(path)*100), string(got)) {
						t.Errorf("%s is answered with %.40q", path, got)
					}
					err = errors.Join(rerr, resp.Body.Close())
				}
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
}
