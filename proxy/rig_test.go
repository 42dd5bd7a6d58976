package proxy

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/secret"
)

// seen is a request as the homeserver got it.
type seen struct {
	Method, Target, Host, Body string
	Header                     http.Header
}

// homeserver is an upstream that records everything. It knows some tokens.
type homeserver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []seen
	tokens   map[string]string // token to whoami response
	answer   http.HandlerFunc  // nil answers {}
}

func newHomeserver(t testing.TB) *homeserver {
	h := &homeserver{tokens: map[string]string{
		"alice": `{"user_id":"@alice:hs","device_id":"ALICE"}`,
		"bob":   `{"user_id":"@bob:hs","device_id":"BOB"}`,
	}}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *homeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	h.requests = append(h.requests, seen{r.Method, r.RequestURI, r.Host, string(body), r.Header.Clone()})
	answer := h.answer
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	whoami, ok := h.tokens[token]
	h.mu.Unlock()
	if strings.HasPrefix(r.RequestURI, "/_matrix/client/v3/account/whoami") && answer == nil {
		w.Header().Set("Content-Type", "application/json")
		if !ok {
			w.WriteHeader(http.StatusUnauthorized)
			whoami = `{"errcode":"M_UNKNOWN_TOKEN","error":"unknown"}`
		}
		_, _ = io.WriteString(w, whoami)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if answer != nil {
		answer(w, r)
		return
	}
	_, _ = io.WriteString(w, "{}")
}

// all returns the requests so far but for whoami.
func (h *homeserver) all() []seen {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(h.requests), func(s seen) bool { return strings.Contains(s.Target, "/account/whoami") })
}

// whoamis counts the identity look-ups so far.
func (h *homeserver) whoamis() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, s := range h.requests {
		if strings.Contains(s.Target, "/account/whoami") {
			n++
		}
	}
	return n
}

// set changes the homeserver under its lock.
func (h *homeserver) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// noDevices is an interceptors.Devices that no test may call.
type noDevices struct{ interceptors.Devices }

func testHash(b []byte) [32]byte {
	m := hmac.New(sha256.New, []byte("test key"))
	m.Write(b)
	return [32]byte(m.Sum(nil))
}

// requiredHandlers are handlers for every required key; each says who it is.
func requiredHandlers() map[string]interceptors.Handler {
	all := make(map[string]interceptors.Handler)
	for _, r := range allRoutes() {
		if r.class == classIntercept {
			all[r.handler] = sayName(r.handler)
		}
	}
	return all
}

func sayName(name string) interceptors.Handler {
	return func(x *interceptors.Exchange) error {
		x.Writer.Header().Set("X-Intercepted", name)
		_, _ = io.WriteString(x.Writer, "{}")
		return nil
	}
}

// rig is a homeserver, a proxy in front of it, and a place to connect to.
type rig struct {
	t     testing.TB
	hs    *homeserver
	proxy *Proxy
	front *httptest.Server
	log   *syncBuffer
	reg   *prometheus.Registry
}

// syncBuffer collects log lines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newRig starts everything; change may alter the options.
func newRig(t testing.TB, change func(*Options)) *rig {
	t.Helper()
	g := &rig{t: t, hs: newHomeserver(t), log: &syncBuffer{}, reg: prometheus.NewRegistry()}
	base, err := url.Parse(g.hs.URL)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Homeserver: base, Handlers: requiredHandlers(), Devices: noDevices{}, Hash: testHash,
		Log: zerolog.New(g.log), Metrics: g.reg,
	}
	// Files of those whose encryption the proxy does not do pass.
	for _, name := range []string{interceptors.UploadFile, interceptors.DownloadFile, interceptors.ThumbnailFile} {
		o.Handlers[name] = func(x *interceptors.Exchange) error { return x.Upstream.Forward(x) }
	}
	if change != nil {
		change(&o)
	}
	if g.proxy, err = New(o); err != nil {
		t.Fatal(err)
	}
	g.front = httptest.NewServer(g.proxy)
	t.Cleanup(g.front.Close)
	t.Cleanup(g.proxy.Drain)
	t.Cleanup(g.proxy.Close)
	return g
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	body string
}

// do sends a request with a raw target and header lines ("Name: value").
func (g *rig) do(method, target, body string, header ...string) answer {
	g.t.Helper()
	var b strings.Builder
	b.WriteString(method + " " + target + " HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n")
	for _, line := range header {
		b.WriteString(line + "\r\n")
	}
	if body != "" {
		b.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return g.raw(method, b.String())
}

// raw sends bytes on a connection of their own and reads one response.
func (g *rig) raw(method, request string) answer {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.front.Listener.Addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		g.t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(conn, request) }() // the server may answer before it has read all
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		g.t.Fatalf("%s: no response: %v", method, err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatalf("%s: read the response: %v", method, err)
	}
	return answer{resp, string(raw)}
}

// errcode returns the Matrix error code of an answer.
func (a answer) errcode() string {
	var e struct {
		ErrCode string `json:"errcode"`
	}
	_ = json.Unmarshal([]byte(a.body), &e)
	return e.ErrCode
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s did not come true", what)
		}
	}
}

func alice() interceptors.Identity {
	return interceptors.Identity{UserID: "@alice:hs", DeviceID: id.DeviceID("ALICE"), Token: secret.NewString("alice")}
}

// inProcess makes a server-side request with a raw target, which clients of net/http
// would not send.
func inProcess(method, target, body string) *http.Request {
	r := httptest.NewRequest(method, "/", strings.NewReader(body))
	r.RequestURI = target
	r.Header.Set("Authorization", "Bearer alice")
	return r
}

// serveInProcess answers without a connection.
func (g *rig) serveInProcess(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	g.proxy.ServeHTTP(w, r)
	return w
}
