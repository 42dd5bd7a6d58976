package proxy

import (
	"bufio"
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
)

// rawHomeserver returns a homeserver that says exactly the bytes that answer writes, and
// knows every token as alice's.
func rawHomeserver(t *testing.T, answer func(conn net.Conn, r *http.Request)) *url.URL {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				if strings.Contains(req.RequestURI, "whoami") {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 23\r\n\r\n{\"user_id\":\"@alice:hs\"}")
					return
				}
				answer(conn, req)
			}()
		}
	}()
	return &url.URL{Scheme: "http", Host: ln.Addr().String()}
}

// Attack vector (38): a homeserver begins an answer and then says nothing more, or so
// little that it never ends.
//
// Expected: the request ends in its time: with 504 while nothing was answered, with a
// broken connection, which nobody takes for a whole answer, when something was.
func TestAnswersThatStandStill(t *testing.T) {
	t.Parallel()
	const (
		passed, relay, read = "/_matrix/client/v3/joined_rooms", "/_matrix/client/v3/rooms/!r:hs/messages", "/_matrix/client/v3/rooms/!r:hs/threads"
		sync                = "/_matrix/client/v3/sync?timeout=1000"
	)
	stop := func(head string) func(net.Conn) {
		return func(conn net.Conn) {
			_, _ = io.WriteString(conn, head)
			_, _ = conn.Read(make([]byte, 1)) // until the proxy hangs up
		}
	}
	drip := func(conn net.Conn) {
		_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
		for tick := time.NewTicker(10 * time.Millisecond); err == nil; <-tick.C {
			_, err = io.WriteString(conn, "x")
		}
	}
	for name, test := range map[string]struct {
		path   string
		answer func(net.Conn)
		want   int // 0: the connection breaks
	}{
		"straight through":          {passed, stop("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"), 0},
		"straight through, chunked": {passed, stop("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"), 0},
		"straight through, refused": {passed, stop("HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\n{"), 0},
		"relayed":                   {relay, stop("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"), 0},
		"read by a handler":         {read, stop("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"), 504},
		"an error for a handler":    {read, stop("HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\n{"), 504},
		"a long poll":               {sync, stop("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"), 504},
		"dripping through":          {passed, drip, 0},
		"dripping for a handler":    {read, drip, 504},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := rawHomeserver(t, func(conn net.Conn, _ *http.Request) { test.answer(conn) })
			g := newRig(t, func(o *Options) {
				o.Homeserver = base
				o.Deadlines.Idle = 100 * time.Millisecond
				o.Handlers["messages"] = relayed
				o.Handlers["threads"], o.Handlers[interceptors.Sync] = readsAnswer, readsAnswer
			})
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.front.URL+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer alice")
			resp, err := http.DefaultTransport.RoundTrip(req)
			status := 0
			if err == nil {
				defer resp.Body.Close()
				if _, err = io.Copy(io.Discard, resp.Body); err == nil {
					status = resp.StatusCode
				}
			}
			if status != test.want {
				t.Errorf("%d (%v), want %d", status, err, test.want)
			}
			eventually(t, "the log says why", func() bool {
				return strings.Contains(g.log.String(), errBroken.Error()) || strings.Contains(g.log.String(), errStalled.Error())
			})
		})
	}
}

// readsAnswer reads an answer to its end before it says anything.
func readsAnswer(x *interceptors.Exchange) error {
	resp, err := x.Upstream.Do(x, interceptors.Change{})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return apierr.FromResponse(resp)
	}
	_, err = io.Copy(x.Writer, readFirst{resp.Body})
	return err
}

// readFirst is a body that returns nothing before it has everything.
type readFirst struct{ from io.Reader }

func (r readFirst) Read([]byte) (int, error) {
	if _, err := io.ReadAll(r.from); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

// A homeserver that pauses within its time, for a client that takes hours between its
// reads, is not given up; one that keeps within the time for each piece and never gets
// anywhere is.
func TestAnswersThatMoveAreLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const idle = time.Minute
		out, in := io.Pipe()
		body := &progressBody{ReadCloser: out, idle: idle, left: 2 * idle}
		buf := make([]byte, 64<<10)
		for range 8 {
			piece := make([]byte, 32*minRate) // as much as half of its pause needs
			go func() {
				time.Sleep(idle / 2)
				_, _ = in.Write(piece)
			}()
			if n, err := io.ReadFull(body, buf[:len(piece)]); err != nil {
				t.Fatalf("%d bytes, %v", n, err)
			}
			time.Sleep(time.Hour)
		}
		started, given := time.Now(), make(chan struct{})
		go func() {
			defer close(given)
			for {
				time.Sleep(idle / 2)
				if _, err := in.Write([]byte("x")); err != nil {
					return
				}
			}
		}()
		if _, err := io.ReadAll(body); !errors.Is(err, errStalled) {
			t.Errorf("a byte now and then: %v", err)
		}
		if took := time.Since(started); took < idle || took > 4*idle {
			t.Errorf("given up after %v", took)
		}
		<-given // the homeserver's side is closed
	})
}

// A homeserver that takes the head of an upload and nothing of its body gets no more
// than its time.
func TestHomeserverThatDoesNotRead(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	base := rawHomeserver(t, func(net.Conn, *http.Request) { <-done })
	g := newRig(t, func(o *Options) { o.Homeserver, o.Deadlines.Idle = base, 200*time.Millisecond })
	a := g.do("POST", "/_matrix/media/v3/upload", strings.Repeat("x", 32<<20), "Authorization: Bearer alice")
	if a.StatusCode != http.StatusGatewayTimeout || a.errcode() != "M_UNKNOWN" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// A body is sent on in pieces that grow with what comes, whole and in order, and ends with its own
// error.
func TestPiecesOfBodies(t *testing.T) {
	t.Parallel()
	for size, end := range map[int]error{0: nil, 1: nil, firstPiece: nil, 3*mostPiece + 1: nil, mostPiece + 7: errBroken} {
		want := bytes.Repeat([]byte("piece"), size/5+1)[:size]
		near, far := net.Pipe()
		got := make(chan []byte, 1)
		go func() {
			all, _ := io.ReadAll(far)
			got <- all
		}()
		from := io.Reader(bytes.NewReader(want))
		if end != nil {
			from = io.MultiReader(from, iotest.ErrReader(end))
		}
		n, err := (&writeDeadlineConn{near, time.Minute}).ReadFrom(from)
		if err := near.Close(); err != nil {
			t.Fatal(err)
		}
		if n != int64(size) || !errors.Is(err, end) || !bytes.Equal(<-got, want) {
			t.Errorf("%d bytes: %d sent, %v", size, n, err)
		}
	}
}

// inPieces has a body in pieces, and no other way to read it.
type inPieces struct {
	*strings.Reader
	end error
	// pieces are how many were given, and lent those of them that were not given back.
	pieces, lent atomic.Int64
	most         int64
	read         bool
}

func (p *inPieces) Read(b []byte) (int, error) {
	p.read = true
	return p.Reader.Read(b)
}

func (p *inPieces) Piece(n int64) ([]byte, func(), error) {
	data := make([]byte, min(n, p.most))
	got, err := p.Reader.Read(data)
	p.lent.Add(1)
	p.pieces.Add(1)
	if errors.Is(err, io.EOF) && p.end != nil {
		err = p.end
	}
	return data[:got], func() { p.lent.Add(-1) }, err
}

// A body that has its pieces in memory is sent from there, no more of it than its length, and all of
// them are given back, however it ends.
func TestBodiesInPieces(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		has, length int
		end         error
		closed      bool
	}{{has: 1000, length: 1000}, {has: 1000, length: 995}, {has: 990, length: 1000}, {has: 990, length: 1000, end: errBroken}, {length: 0}, {has: 10, length: 10, closed: true}} {
		var text strings.Builder
		for i := 0; text.Len() < test.has; i++ {
			fmt.Fprint(&text, i)
		}
		want := text.String()[:test.has]
		near, far := net.Pipe()
		got := make(chan []byte, 1)
		if test.closed {
			_ = far.Close()
			got <- nil
		} else {
			go func() {
				all, _ := io.ReadAll(far)
				got <- all
			}()
		}
		body := &inPieces{Reader: strings.NewReader(want), end: test.end, most: 7}
		n, err := (&writeDeadlineConn{near, time.Minute}).ReadFrom(io.LimitReader(piecesBody{body, body}, int64(test.length)))
		_ = near.Close()
		sent := min(test.has, test.length)
		if test.closed {
			if err == nil {
				t.Error("nobody took it")
			}
			sent = 0
		} else if !errors.Is(err, test.end) {
			t.Errorf("%+v: %v", test, err)
		}
		if all := <-got; n != int64(sent) || string(all) != want[:sent] || body.lent.Load() != 0 || body.read {
			t.Errorf("%+v: %d sent, %d came, %d are not given back, read: %v", test, n, len(all), body.lent.Load(), body.read)
		}
	}
}

// The other end goes away in the middle: that is the error, all is given back, and nothing more is
// asked for than what may wait.
func TestBodyInPiecesThatNobodyTakes(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	go func() {
		_, _ = io.CopyN(io.Discard, far, 70)
		_ = far.Close()
	}()
	body := &inPieces{Reader: strings.NewReader(strings.Repeat("x", 10_000)), most: 7}
	n, err := (&writeDeadlineConn{near, time.Minute}).ReadFrom(io.LimitReader(piecesBody{body, body}, 10_000))
	_ = near.Close()
	if n != 70 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%d sent, %v", n, err)
	}
	if lent, given := body.lent.Load(), body.pieces.Load(); lent != 0 || given > 10+1+piecesAhead+2 {
		t.Errorf("%d of %d pieces are not given back", lent, given)
	}
}

// The transport finds the pieces of a handler's body.
func TestUploadsAreSentInPieces(t *testing.T) {
	t.Parallel()
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all, _ := io.ReadAll(r.Body)
		_, _ = w.Write(all)
	}))
	t.Cleanup(ts.Close)
	transport, err := NewTransport("", time.Second, time.Minute, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	want := strings.Repeat("piece", 40_000)
	body := &inPieces{Reader: strings.NewReader(want), most: mostPiece}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, ts.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	setStream(req, interceptors.Change{Stream: body, Length: int64(len(want)), ContentType: "a/b"})
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != want {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	if body.pieces.Load() == 0 {
		t.Error("it was not sent in pieces")
	}
}

// Attack vector (39): a client asks for a large answer and does not read it.
//
// Expected: it is given up after the time in which a piece must go out, and holds
// nothing at the homeserver any more; the log does not blame the homeserver.
func TestReaderThatDoesNotRead(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	g := newRig(t, func(o *Options) { o.Deadlines.Idle = 200 * time.Millisecond })
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, _ *http.Request) {
			defer close(gone)
			piece := make([]byte, 1<<20)
			for {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}
	})
	conn, err := net.Dial("tcp", g.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /_matrix/media/v3/download/hs/m HTTP/1.1\r\nHost: x\r\n\r\n")
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the answer is still being sent")
	}
	eventually(t, "the log says who left", func() bool { return strings.Contains(g.log.String(), errClientGone.Error()) })
}

// A homeserver with a certificate of a private authority is believed when that authority
// is named, and not otherwise; no proxy of the environment gets between.
func TestHomeserverOverTLS(t *testing.T) {
	t.Parallel()
	hs := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"joined_rooms":[]}`)
	}))
	hs.Config.ErrorLog = log.New(io.Discard, "", 0)
	hs.StartTLS()
	t.Cleanup(hs.Close)
	base, err := url.Parse(hs.URL)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hs.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]int{ca: http.StatusOK, "": http.StatusBadGateway} {
		g := newRig(t, func(o *Options) { o.Homeserver, o.CAFile = base, file })
		if a := g.do("GET", "/_matrix/client/v3/joined_rooms", ""); a.StatusCode != want {
			t.Errorf("with CA file %q: %d %s", file, a.StatusCode, a.body)
		}
		transport, err := NewTransport(file, time.Second, time.Second, time.Second)
		if err != nil || transport.Proxy != nil {
			t.Errorf("with CA file %q: a proxy may get between (%v)", file, err)
		}
	}
}
