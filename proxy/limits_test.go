package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"e2ee-proxy/interceptors"
)

// readAll returns a handler that reads its body, as interceptors do.
func readAll(x *interceptors.Exchange) error {
	if _, err := io.ReadAll(x.Request.Body); err != nil {
		return err
	}
	_, err := io.WriteString(x.Writer, "{}")
	return err
}

// A body over the limit of its route is 413 M_TOO_LARGE, whether its length was said or
// not, and whether a handler reads it or it streams through.
func TestBodyLimits(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) {
		o.Handlers[interceptors.Send] = readAll
		o.Limits.MaxUpload = 1000
	})
	const send, tags, upload = "/_matrix/client/v3/rooms/!r:hs/send/x/t", "/_matrix/client/v3/user/@a:hs/rooms/!r:hs/tags/x", "/_matrix/media/v3/upload/hs/x"
	for _, test := range []struct {
		path string
		size int
		want int
	}{
		{send, eventBody, 200},
		{send, eventBody + 1, 413},
		{tags, smallBody, 200},
		{tags, smallBody + 1, 413},
		{upload, 1000, 200},
		{upload, 1001, 413},
	} {
		body := strings.Repeat("x", test.size)
		if a := g.do("PUT", test.path, body, "Authorization: Bearer alice"); a.StatusCode != test.want || test.want == 413 && a.errcode() != "M_TOO_LARGE" {
			t.Errorf("%s, %d bytes: %d %s", test.path, test.size, a.StatusCode, a.body)
		}
		chunked := "PUT " + test.path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" +
			strconv.FormatInt(int64(test.size), 16) + "\r\n" + body + "\r\n0\r\n\r\n"
		if a := g.raw("PUT", chunked); a.StatusCode != test.want || test.want == 413 && a.errcode() != "M_TOO_LARGE" {
			t.Errorf("%s, %d bytes in a chunk: %d %s", test.path, test.size, a.StatusCode, a.body)
		}
	}
	for _, s := range g.hs.all() {
		if len(s.Body) > smallBody {
			t.Errorf("upstream got %d bytes", len(s.Body))
		}
	}
	if a := g.do("PUT", send, "xx", "Authorization: Bearer alice", "Content-Encoding: gzip"); a.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("a compressed body for a handler: %d %s", a.StatusCode, a.body)
	}
}

// Attack vector (39): a body that trickles in keeps a place for ever; one that is slow
// but moves is let finish, and a parked request whose body has come is not disturbed by
// the deadline of that body.
func TestSlowBodies(t *testing.T) {
	t.Parallel()
	parked := make(chan struct{})
	g := newRig(t, func(o *Options) {
		o.Deadlines.Idle = 200 * time.Millisecond
		o.Handlers[interceptors.Send] = readAll
		o.Handlers[interceptors.CreateRoom] = func(x *interceptors.Exchange) error {
			if _, err := io.ReadAll(x.Request.Body); err != nil {
				return err
			}
			select {
			case <-parked:
			case <-x.Request.Context().Done():
				return x.Request.Context().Err()
			}
			_, err := io.WriteString(x.Writer, "{}")
			return err
		}
	})
	dial := func(path string) (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", g.front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\nContent-Length: 4\r\n\r\n12")
		return conn, bufio.NewReader(conn)
	}
	status := func(in *bufio.Reader) int {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return 0
		}
		return resp.StatusCode
	}
	conn, in := dial("/_matrix/client/v3/createRoom")
	_, _ = io.WriteString(conn, "34")
	// What stands still is given up, for a handler and straight through.
	for _, path := range []string{"/_matrix/client/v3/rooms/!r:hs/send/x", "/_matrix/client/v3/user_directory/search"} {
		_, stuck := dial(path)
		if got := status(stuck); got != http.StatusRequestTimeout {
			t.Errorf("%s: %d", path, got)
		}
	}
	// By now the deadline of the parked request's body has long passed.
	close(parked)
	if got := status(in); got != http.StatusOK {
		t.Errorf("the parked request: %d", got)
	}
	// The connection can be used again.
	_, _ = io.WriteString(conn, "GET /_matrix/client/v3/joined_rooms HTTP/1.1\r\nHost: x\r\n\r\n")
	eventually(t, "the next request arrives", func() bool {
		for _, s := range g.hs.all() {
			if strings.HasSuffix(s.Target, "joined_rooms") {
				return true
			}
		}
		return false
	})
}

func TestBodyMinimumRate(t *testing.T) {
	t.Parallel()
	// A megabyte that came in an instant earns time, but never more than the idle time.
	conn := &deadlines{}
	d := readDeadline{conn: http.NewResponseController(conn), idle: time.Minute}
	d.extend()
	if left := time.Until(conn.read); left > time.Minute || left < 59*time.Second {
		t.Errorf("at the start: %v", left)
	}
	d.start = d.start.Add(-10 * time.Minute)
	d.extend()
	if left := time.Until(conn.read); left > -7*time.Minute {
		t.Errorf("nothing in ten minutes: %v", left)
	}
	d.got = 1 << 20
	d.extend()
	if left := time.Until(conn.read); left > time.Minute || left < 59*time.Second {
		t.Errorf("a megabyte in ten minutes: %v", left)
	}
}

// deadlines is a response writer that keeps the deadlines it was given.
type deadlines struct {
	takes time.Duration // each write
	http.ResponseWriter
	read, write time.Time
	writes      int
}

func (d *deadlines) SetReadDeadline(at time.Time) error { d.read = at; return nil }

func (d *deadlines) SetWriteDeadline(at time.Time) error { d.write = at; return nil }

func (d *deadlines) WriteHeader(int) {}

func (d *deadlines) Write(b []byte) (int, error) {
	d.writes++
	<-time.After(d.takes) // of the test's own clock
	if time.Until(d.write) <= 0 {
		return 0, errors.New("the deadline has passed")
	}
	if len(b) > quickChunk || d.takes > 0 && len(b) > writeChunk {
		return 0, errors.New("too much for one deadline")
	}
	return len(b), nil
}

// A response may pause for as long as it likes; each piece of it must go out in time,
// and a large piece is several: fewer for a client that takes them at once.
func TestWriteDeadlineFollowsTheProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for takes, pieces := range map[time.Duration]int{time.Second: 11, 0: 4} {
			conn := &deadlines{takes: takes}
			rec := new(recorder)
			rec.begin(conn, false, time.Minute, time.Now().Add(-time.Hour))
			if n, err := rec.Write(make([]byte, 10*writeChunk+1)); err != nil || n != 10*writeChunk+1 || conn.writes != pieces || rec.bytes != int64(n) {
				t.Errorf("wrote %d in %d pieces: %v", n, conn.writes, err)
			}
			if left := time.Until(conn.write); left > time.Minute || left < 50*time.Second {
				t.Errorf("deadline in %v", left)
			}
		}
	})
}

// Each lane has its places, and each device a share; what is over gets 429.
func TestLanesAreBounded(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var once sync.Once
	var inside sync.WaitGroup
	g := newRig(t, func(o *Options) {
		o.Limits.Poll = LaneLimit{Total: 3, PerIdentity: 2}
		o.Handlers[interceptors.Sync] = func(x *interceptors.Exchange) error {
			inside.Done()
			<-release
			_, err := io.WriteString(x.Writer, "{}")
			return err
		}
	})
	t.Cleanup(func() { once.Do(func() { close(release) }) })
	get := func(token string) answer {
		return g.do("GET", "/_matrix/client/v3/sync", "", "Authorization: Bearer "+token)
	}
	var done sync.WaitGroup
	park := func(token string) {
		inside.Add(1)
		done.Go(func() {
			if a := get(token); a.StatusCode != 200 {
				t.Errorf("%s: %d", token, a.StatusCode)
			}
		})
		inside.Wait()
	}
	park("alice")
	park("alice")
	if a := get("alice"); a.StatusCode != 429 || a.errcode() != "M_LIMIT_EXCEEDED" || a.Header.Get("Retry-After") == "" || !strings.Contains(a.body, "retry_after_ms") {
		t.Errorf("alice's third: %d %s", a.StatusCode, a.body)
	}
	park("bob")
	if a := get("bob"); a.StatusCode != 429 {
		t.Errorf("the fourth: %d", a.StatusCode)
	}
	if a := g.do("GET", "/_matrix/client/v3/joined_rooms", "", "Authorization: Bearer alice"); a.StatusCode != 200 {
		t.Errorf("another lane: %d", a.StatusCode)
	}
	once.Do(func() { close(release) })
	done.Wait()
	inside.Add(1)
	if a := get("alice"); a.StatusCode != 200 {
		t.Errorf("afterwards: %d", a.StatusCode)
	}
	if len(g.proxy.limiter.per) != 0 {
		t.Errorf("places are left: %v", g.proxy.limiter.per)
	}
}

// An upload may be refused by the homeserver before it is read; the client gets that.
func TestEarlyAnswerToAnUpload(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 27\r\n\r\n{\"errcode\":\"M_FORBIDDEN\"}  ")
			_, _ = io.Copy(io.Discard, conn)
		}
	}()
	g := newRig(t, func(o *Options) { o.Homeserver = &url.URL{Scheme: "http", Host: ln.Addr().String()} })
	a := g.do("POST", "/_matrix/media/v3/upload", strings.Repeat("x", 8<<20), "Authorization: Bearer alice")
	if a.StatusCode != 403 || a.errcode() != "M_FORBIDDEN" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
