package proxy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/interceptors"
)

// What is not intercepted passes unchanged in both directions.
func TestPassThroughIsFaithful(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h.Set("Retry-After", "17")
			h.Set("Content-Disposition", `attachment; filename="a b.png"`)
			h["Set-Cookie"] = []string{"a=1; Path=/", "b=2"}
			h.Set("Location", "https://elsewhere.test/?x=1")
			h.Set("Access-Control-Allow-Origin", "https://only.this.test")
			h.Set("Etag", `"tag"`)
			h.Set("Content-Type", "image/png")
			h.Set("Connection", "X-Hop")
			h.Set("X-Hop", "1")
			w.WriteHeader(http.StatusTemporaryRedirect)
			_, _ = io.WriteString(w, "body of "+r.Method)
		}
	})
	for _, method := range []string{"GET", "PUT", "DELETE", "HEAD", "OPTIONS"} {
		body := ""
		if method == "PUT" || method == "DELETE" {
			body = `{"a": 1}`
		}
		a := g.do(method, "/_matrix/client/v3/user/@a%2Fb%3Ahs/rooms/%21r%3Ahs/tags/u.x%20y?a=1&a=2&b=%2F", body,
			"Authorization: Bearer alice", "Content-Type: application/json", "X-Custom: kept", "Accept-Encoding: gzip, br", "If-None-Match: \"tag\"", "Range: bytes=0-5", "User-Agent: ua")
		want := "body of " + method
		if method == "HEAD" {
			want = ""
		}
		if a.StatusCode != http.StatusTemporaryRedirect || a.body != want {
			t.Errorf("%s: %d %q", method, a.StatusCode, a.body)
		}
		got := http.Header{}
		for _, name := range []string{"Retry-After", "Content-Disposition", "Set-Cookie", "Location", "Access-Control-Allow-Origin", "Etag", "Content-Type", "X-Hop"} {
			if v := a.Header.Values(name); v != nil {
				got[name] = v
			}
		}
		if diff := cmp.Diff(http.Header{
			"Retry-After": {"17"}, "Content-Disposition": {`attachment; filename="a b.png"`}, "Set-Cookie": {"a=1; Path=/", "b=2"},
			"Location": {"https://elsewhere.test/?x=1"}, "Access-Control-Allow-Origin": {"https://only.this.test"}, "Etag": {`"tag"`}, "Content-Type": {"image/png"},
		}, got); diff != "" {
			t.Errorf("%s: header (-want +got):\n%s", method, diff)
		}
		all := g.hs.all()
		s := all[len(all)-1]
		if s.Method != method || s.Body != body || s.Host != strings.TrimPrefix(g.hs.URL, "http://") ||
			s.Target != "/_matrix/client/v3/user/%40a%2Fb%3Ahs/rooms/%21r%3Ahs/tags/u.x%20y?a=1&a=2&b=%2F" {
			t.Errorf("%s: upstream saw %+v", method, s)
		}
		for name, want := range map[string]string{"X-Custom": "kept", "Accept-Encoding": "gzip, br", "If-None-Match": `"tag"`, "Range": "bytes=0-5", "User-Agent": "ua", "Connection": ""} {
			if s.Header.Get(name) != want {
				t.Errorf("%s: upstream saw %s: %q", method, name, s.Header.Get(name))
			}
		}
	}
	if n := len(g.hs.all()); n != 5 {
		t.Errorf("%d requests upstream; a redirect was followed, or one asked twice", n)
	}
}

// Bodies stream: the other side sees a part before the next one is sent.
func TestPassThroughStreams(t *testing.T) {
	t.Parallel()
	arrived, parts := make(chan string), make(chan string)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for in := bufio.NewScanner(r.Body); in.Scan(); {
			arrived <- in.Text()
		}
		w.Header().Set("Trailer", "X-Trailer")
		for part := range parts {
			_, _ = io.WriteString(w, part)
			_ = http.NewResponseController(w).Flush()
		}
		w.Header().Set("X-Trailer", "end")
	}))
	t.Cleanup(upstream.Close)
	g := newRig(t, func(o *Options) { o.Homeserver, _ = url.Parse(upstream.URL) })
	send, body := net.Pipe()
	req, err := http.NewRequest("PUT", g.front.URL+"/_matrix/client/v3/room_keys/keys", body)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *http.Response, 1)
	go func() {
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Error(err)
		}
		got <- resp
	}()
	for _, part := range []string{"one", "two", "three"} {
		if _, err := io.WriteString(send, part+"\n"); err != nil {
			t.Fatal(err)
		}
		if line := <-arrived; line != part {
			t.Fatalf("upstream got %q", line)
		}
	}
	_ = send.Close()
	parts <- "first"
	resp := <-got
	if resp == nil {
		t.FailNow()
	}
	defer resp.Body.Close()
	buf := make([]byte, 16)
	if n, err := resp.Body.Read(buf); err != nil || string(buf[:n]) != "first" {
		t.Fatalf("client got %q, %v", buf[:n], err)
	}
	parts <- "second"
	close(parts)
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "second" || resp.Trailer.Get("X-Trailer") != "end" {
		t.Errorf("end: %q, %v, trailer %v", rest, err, resp.Trailer)
	}
}

// Informational responses pass, and "Expect: 100-continue" works.
func TestPassThroughInformational(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</x>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusOK)
		}
	})
	conn, err := net.Dial("tcp", g.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /_matrix/client/v3/joined_rooms HTTP/1.1\r\nHost: x\r\n\r\n")
	in := bufio.NewReader(conn)
	if line, _ := in.ReadString('\n'); !strings.Contains(line, "103") {
		t.Errorf("first came %q", line)
	}
	g.hs.set(func() { g.hs.answer = nil })
	conn2, err := net.Dial("tcp", g.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn2.Close()
	_, _ = io.WriteString(conn2, "POST /_matrix/client/v3/user_directory/search HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	in = bufio.NewReader(conn2)
	if line, _ := in.ReadString('\n'); !strings.Contains(line, "100") {
		t.Errorf("first came %q", line)
	}
	_, _ = io.WriteString(conn2, "{}")
	line := "\r\n"
	for line == "\r\n" || strings.Contains(line, " 100 ") { // the homeserver's own may come too
		line, _ = in.ReadString('\n')
	}
	if !strings.Contains(line, "200") {
		t.Errorf("then came %q", line)
	}
	if a := g.raw("PUT", "PUT /_matrix/client/v3/rooms/!r:hs/send/x/t HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"); a.StatusCode != 401 {
		t.Errorf("without a token: %d before any body was asked for", a.StatusCode)
	}
}

// A WebSocket is refused in words; an offer of HTTP/2 in clear is not taken up.
func TestUpgrades(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	a := g.do("GET", "/_matrix/client/v3/joined_rooms", "", "Upgrade: websocket", "Sec-WebSocket-Key: x")
	if a.StatusCode != 400 || a.errcode() != "M_UNRECOGNIZED" || len(g.hs.all()) != 0 {
		t.Errorf("websocket: %d %s", a.StatusCode, a.body)
	}
	a = g.do("GET", "/_matrix/client/v3/joined_rooms", "", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
	if a.StatusCode != 200 || g.hs.all()[0].Header.Get("Upgrade") != "" {
		t.Errorf("h2c: %d %v", a.StatusCode, g.hs.all())
	}
	a = g.raw("PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	if a.StatusCode != 505 && a.StatusCode != 400 {
		t.Errorf("HTTP/2 without asking: %d", a.StatusCode)
	}
}

// Attack vector (35, 36): a client says where it comes from, by the usual headers or by
// names that some software takes for them.
//
// Expected: nobody is believed unless listed.
func TestForwardedHeaders(t *testing.T) {
	t.Parallel()
	claims := []string{
		"X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil.test", "X-Forwarded-Proto: https", "Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6",
		"X-Forwarded-User: root", "X_Forwarded_For: 6.6.6.6", "X.Forwarded.For: 6.6.6.6", "Remote_User: root", "Remote.User: root",
	}
	header := func(trusted []netip.Prefix, extra ...string) http.Header {
		g := newRig(t, func(o *Options) { o.TrustedProxies = trusted })
		g.do("GET", "/_matrix/client/v3/joined_rooms", "", append(claims, extra...)...)
		h := http.Header{}
		for name, v := range g.hs.all()[0].Header {
			if strings.Contains(name, "orward") || strings.Contains(name, "Real") || strings.Contains(name, "emote") {
				h[name] = v
			}
		}
		return h
	}
	if diff := cmp.Diff(http.Header{"X-Forwarded-For": {"127.0.0.1"}}, header(nil)); diff != "" {
		t.Errorf("nobody trusted (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(http.Header{"X-Forwarded-For": {"127.0.0.1"}}, header(nil, "Connection: X-Forwarded-For")); diff != "" {
		t.Errorf("named by Connection (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(http.Header{"X-Forwarded-For": {"127.0.0.1"}}, header([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})); diff != "" {
		t.Errorf("others trusted (-want +got):\n%s", diff)
	}
	got := header([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	if got.Get("X-Forwarded-For") != "6.6.6.6, 127.0.0.1" || got.Get("X-Forwarded-Proto") != "https" || got.Get("Remote.User") != "" || got.Get("X_forwarded_for") != "" {
		t.Errorf("trusted: %v", got)
	}
}

// Do sends what the handler changed and what it did not, rebuilt from the endpoint.
func TestDoSendsTheChanges(t *testing.T) {
	t.Parallel()
	var change interceptors.Change
	g := newRig(t, func(o *Options) {
		o.Handlers[interceptors.Send] = func(x *interceptors.Exchange) error {
			resp, err := x.Upstream.Do(x, change)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			return x.Upstream.Relay(x, resp)
		}
	})
	const in = "/_matrix/client/r0/rooms/%21r%3Ahs/send/m.room.message?ts=1&access_token=alice"
	header := []string{"Content-Type: text/plain", "Accept-Encoding: gzip", "Range: bytes=0-1", "If-None-Match: x", "X-Custom: kept", "User-Agent: ua"}
	for _, test := range []struct {
		change interceptors.Change
		want   seen
	}{
		{interceptors.Change{}, seen{Method: "POST", Target: "/_matrix/client/r0/rooms/%21r%3Ahs/send/m.room.message?ts=1", Body: `{"b":1}`}},
		{
			interceptors.Change{
				Method: "PUT", Pattern: "/_matrix/client/{version}/rooms/{roomId}/send/{eventType}/{txnId}",
				Params: map[string]string{"eventType": "m.room.encrypted", "txnId": "a/b"}, Query: url.Values{}, Body: []byte(`{"c":2}`),
			},
			seen{Method: "PUT", Target: "/_matrix/client/r0/rooms/%21r%3Ahs/send/m.room.encrypted/a%2Fb", Body: `{"c":2}`},
		},
		{interceptors.Change{Query: url.Values{"x": {"1", "2"}}, Body: []byte{}}, seen{Method: "POST", Target: "/_matrix/client/r0/rooms/%21r%3Ahs/send/m.room.message?x=1&x=2"}},
	} {
		change = test.change
		before := len(g.hs.all())
		a := g.do("POST", in, `{"b":1}`, header...)
		got := g.hs.all()[before]
		if a.StatusCode != 200 || got.Method != test.want.Method || got.Target != test.want.Target || got.Body != test.want.Body {
			t.Errorf("%+v: %d, upstream saw %+v", test.change, a.StatusCode, got)
		}
		wantType := "text/plain"
		if test.change.Body != nil {
			wantType = "application/json"
		}
		for name, want := range map[string]string{"Content-Type": wantType, "Accept-Encoding": "identity", "Range": "", "If-None-Match": "", "X-Custom": "kept", "Authorization": "Bearer alice", "User-Agent": "ua", "X-Forwarded-For": "127.0.0.1"} {
			if got.Header.Get(name) != want {
				t.Errorf("%+v: upstream saw %s: %q, want %q", test.change, name, got.Header.Get(name), want)
			}
		}
	}
	for _, bad := range []interceptors.Change{
		{Params: map[string]string{"roomId": "!a/../b"}},
		{Params: map[string]string{"eventType": ".."}},
		{Pattern: "/_matrix/client/{version}/rooms/{roomId}/send/{eventType}/{txnId}"},
	} {
		change = bad
		before := len(g.hs.all())
		if a := g.do("POST", in, `{}`); a.StatusCode != 500 || len(g.hs.all()) != before {
			t.Errorf("%+v: %d", bad, a.StatusCode)
		}
	}
}

// Relay passes what Do got, with its headers, and lets browsers read it.
func TestRelayIsFaithful(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) { o.Handlers["messages"] = relayed })
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.RequestURI, "whoami") {
				_, _ = io.WriteString(w, `{"user_id":"@alice:hs"}`)
				return
			}
			w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
			w.Header().Set("Retry-After", "5")
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, "slow")
		}
	})
	a := g.do("GET", "/_matrix/client/v3/rooms/!r:hs/messages", "", "Authorization: Bearer alice")
	if a.StatusCode != 429 || a.body != "slow" || a.Header.Get("Retry-After") != "5" || len(a.Header["Set-Cookie"]) != 2 || a.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%d %v %q", a.StatusCode, a.Header, a.body)
	}
	if a := g.do("HEAD", "/_matrix/client/v3/rooms/!r:hs/messages", "", "Authorization: Bearer alice"); a.StatusCode != 429 || a.body != "" {
		t.Errorf("HEAD: %d %q", a.StatusCode, a.body)
	}
	if all := g.hs.all(); all[len(all)-1].Method != "GET" {
		t.Errorf("HEAD went up as %s", all[len(all)-1].Method)
	}
}

// Attack vector (38): an answer that a handler would look into is compressed although
// none was asked for (a bomb), breaks off, or is no HTTP at all.
//
// Expected: it is not unpacked, and an answer that broke off is not taken for whole.
func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	var raw func(conn net.Conn)
	base := rawHomeserver(t, func(conn net.Conn, _ *http.Request) { raw(conn) })
	g := newRig(t, func(o *Options) {
		o.Homeserver = base
		o.Handlers["messages"] = relayed
	})
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 1<<20))
	_ = z.Close()
	const intercepted, passed = "/_matrix/client/v3/rooms/!r:hs/messages", "/_matrix/client/v3/joined_rooms"
	for _, test := range []struct {
		name, path, answer string
		want               int // 0 means: the connection breaks
	}{
		{"compressed", intercepted, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", bomb.Len(), bomb.String()), 502},
		{"no HTTP", intercepted, "hello\r\n\r\n", 502},
		{"no HTTP", passed, "hello\r\n\r\n", 502},
		{"nothing", intercepted, "", 502},
		{"nothing", passed, "", 502},
		{"endless header", passed, "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n", 502},
		{"an upgrade nobody asked for", passed, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", 502},
		{"an upgrade nobody asked for", intercepted, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", 502},
		{"too short", intercepted, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", 0},
		{"too short", passed, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", 0},
		{"broken chunks", intercepted, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz", 0},
		{"broken chunks", passed, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz", 0},
	} {
		raw = func(conn net.Conn) { _, _ = io.WriteString(conn, test.answer) }
		req, err := http.NewRequest("GET", g.front.URL+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer alice")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			if test.want != 0 {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if test.want == 0 {
			if err == nil {
				t.Errorf("%s on %s: taken for whole: %d %q", test.name, test.path, resp.StatusCode, body)
			}
		} else if resp.StatusCode != test.want || err != nil {
			t.Errorf("%s on %s: %d, %v", test.name, test.path, resp.StatusCode, err)
		}
	}
}

// A homeserver that takes the request and says nothing gets 504 in its time, a client
// that leaves is noticed, and a homeserver that is not there is 502.
func TestSilentHomeserver(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(o *Options) {
		o.Waits = Waits{Quick: 50 * time.Millisecond, Slow: 50 * time.Millisecond, Poll: 50 * time.Millisecond}
		o.Handlers["messages"] = relayed
		o.Handlers[interceptors.Sync] = relayed
	})
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	left := make(chan struct{}, 16)
	g.hs.set(func() {
		g.hs.answer = func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.Contains(r.RequestURI, "whoami"):
				_, _ = io.WriteString(w, `{"user_id":"@alice:hs"}`)
				return
			case strings.Contains(r.RequestURI, "capabilities"):
				return
			}
			select {
			case <-release:
			case <-r.Context().Done():
				left <- struct{}{}
			}
		}
	})
	eventually(t, "the token is known, so that the waits below are for the requests themselves", func() bool {
		return g.do("GET", "/_matrix/client/v3/capabilities", "", "Authorization: Bearer alice").StatusCode == 200
	})
	for _, path := range []string{"/_matrix/client/v3/joined_rooms", "/_matrix/client/v3/rooms/!r:hs/messages", "/_matrix/client/v3/sync?timeout=20"} {
		if a := g.do("GET", path, "", "Authorization: Bearer alice"); a.StatusCode != 504 || a.errcode() != "M_UNKNOWN" || a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
		<-left
	}
	conn, err := net.Dial("tcp", g.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	before := len(g.hs.all())
	_, _ = io.WriteString(conn, "GET /_matrix/client/v3/sync?timeout=600000 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n\r\n")
	eventually(t, "the sync arrives upstream", func() bool { return len(g.hs.all()) > before })
	_ = conn.Close()
	<-left
	eventually(t, "the log says 499", func() bool { return strings.Contains(g.log.String(), `"status":499`) })
	// It is no fault, and does not look like one.
	for line := range strings.Lines(g.log.String()) {
		if strings.Contains(line, `"status":499`) && (!strings.Contains(line, `"reason":"the client left"`) || strings.Contains(line, `"error"`) || strings.Contains(line, `"warn"`)) {
			t.Errorf("the log says of a client that left: %s", line)
		}
	}
}

func TestUpstreamErrorsHideTheURL(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	err := g.proxy.upstreamError(&url.Error{Op: "Get", URL: "http://hs/!room?secret", Err: errors.New("refused")})
	if strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

// A homeserver under a path of its own keeps it.
func TestHomeserverWithAPath(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"/hs", "/hs/"} {
		g := newRig(t, func(o *Options) { o.Homeserver = o.Homeserver.JoinPath(base) })
		g.do("GET", "/_matrix/client/v3/joined_rooms?a=1", "")
		if got := g.hs.all(); len(got) != 1 || got[0].Target != "/hs/_matrix/client/v3/joined_rooms?a=1" {
			t.Errorf("upstream saw %+v", got)
		}
	}
}
