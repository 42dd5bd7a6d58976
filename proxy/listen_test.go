package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
)

// serving starts Serve and returns its address, a way to stop it and its result.
func (g *rig) serving() (addr string, stop context.CancelFunc, result <-chan error) {
	g.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	out := make(chan error, 1)
	go func() { out <- g.proxy.Serve(ctx, ln) }()
	g.t.Cleanup(cancel)
	return ln.Addr().String(), cancel, out
}

// open sends a request on a connection of its own and leaves the answer to be read.
func open(t *testing.T, addr, method, target, body string) *bufio.Reader {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	head := method + " " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n"
	if body != "" {
		head += "Content-Length: 2\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"+body); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(conn)
}

func read(t *testing.T, in *bufio.Reader) (int, string, http.Header) {
	t.Helper()
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Errorf("no response: %v", err)
		return 0, "", nil
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("read the response: %v", err)
	}
	return resp.StatusCode, string(body), resp.Header
}

// At shutdown (attack 60) sends in flight finish with their real answer, parked long
// polls return at once with something the client can go on from, a sync whose answer has
// begun is finished, and Serve returns when all is done.
func TestDrain(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) {
		o.Handlers[interceptors.Sync] = func(x *interceptors.Exchange) error {
			if err := relayed(x); err != nil {
				// Handlers may put errors into words of their own.
				return &apierr.Error{Status: 500, ErrCode: "M_UNKNOWN", Text: "sync", Err: err}
			}
			return nil
		}
		o.Handlers[interceptors.Send] = relayed
	})
	finish := make(chan struct{})
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.Contains(r.RequestURI, "whoami"):
				_, _ = io.WriteString(w, `{"user_id":"@alice:hs","device_id":"A"}`)
			case strings.Contains(r.RequestURI, "begun"):
				_, _ = io.WriteString(w, `{"next_batch":`)
				_ = http.NewResponseController(w).Flush()
				<-finish
				_, _ = io.WriteString(w, `"s2"}`)
			case strings.Contains(r.RequestURI, "/sync"), strings.Contains(r.RequestURI, "/events"):
				<-r.Context().Done()
			default:
				<-finish
				_, _ = io.WriteString(w, `{"event_id":"$e"}`)
			}
		}
	})
	addr, stop, result := g.serving()
	parked := open(t, addr, "GET", "/_matrix/client/v3/sync?timeout=30000&since=s%2F1", "")
	first := open(t, addr, "GET", "/_matrix/client/v3/sync?timeout=30000", "")
	events := open(t, addr, "GET", "/_matrix/client/v3/events?timeout=30000", "")
	begun := open(t, addr, "GET", "/_matrix/client/v3/sync?since=begun", "")
	send := open(t, addr, "PUT", "/_matrix/client/v3/rooms/!r:hs/send/x/t", "{}")
	eventually(t, "all five arrive upstream", func() bool { return len(g.hs.all()) == 5 })
	if _, err := begun.Peek(1); err != nil {
		t.Fatal(err)
	}

	stop()
	if status, body, h := read(t, parked); status != 200 || body != `{"next_batch":"s/1"}` || h.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("the parked sync: %d %s", status, body)
	}
	for name, in := range map[string]*bufio.Reader{"a first sync": first, "events": events} {
		if status, body, h := read(t, in); status != 503 || !strings.Contains(body, "M_UNKNOWN") || h.Get("Retry-After") != "1" {
			t.Errorf("%s: %d %v %s", name, status, h, body)
		}
	}
	if !g.proxy.Draining() {
		t.Error("it does not say that it is draining")
	}
	select {
	case err := <-result:
		t.Fatalf("Serve left requests behind: %v", err)
	default:
	}
	eventually(t, "new connections are not taken any more", func() bool {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	close(finish)
	if status, body, _ := read(t, send); status != 200 || body != `{"event_id":"$e"}` {
		t.Errorf("the send: %d %s", status, body)
	}
	if status, body, _ := read(t, begun); status != 200 || body != `{"next_batch":"s2"}` {
		t.Errorf("the sync that had begun: %d %s", status, body)
	}
	if err := <-result; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// What does not finish in time is cut off, and Serve says so.
func TestDrainHasAnEnd(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	g := newRig(t, func(o *Options) {
		o.Deadlines.Drain = 50 * time.Millisecond
		o.Handlers[interceptors.Send] = func(x *interceptors.Exchange) error {
			close(entered)
			<-x.Request.Context().Done()
			return x.Request.Context().Err()
		}
	})
	addr, stop, result := g.serving()
	open(t, addr, "PUT", "/_matrix/client/v3/rooms/!r:hs/send/x/t", "{}")
	<-entered
	stop()
	if err := <-result; err == nil || !strings.Contains(err.Error(), "drain") {
		t.Errorf("Serve: %v", err)
	}
}

func TestServeTellsOfABrokenListener(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if err := g.proxy.Serve(t.Context(), ln); err == nil {
		t.Error("no error")
	}
}

// Attack vector (39): headers that never end.
func TestSlowHeader(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) { o.Deadlines.Header = 50 * time.Millisecond })
	addr, stop, result := g.serving()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\nX: ")
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("the connection was not closed in order: %v", err)
	}
	stop()
	if err := <-result; err != nil {
		t.Error(err)
	}
}
