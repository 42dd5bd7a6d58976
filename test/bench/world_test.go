package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/config"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/proxy"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// upstream is a homeserver whose answers to some requests are made beforehand, so that
// what is measured is the proxy and not the homeserver. Everything else is answered by
// what stands behind it.
type upstream struct {
	url    *url.URL
	behind http.Handler
	// discards has long reads of bodies thrown away.
	discards atomic.Bool

	mu       sync.RWMutex
	canned   map[string]http.HandlerFunc // by method and path
	prefixed map[string]http.HandlerFunc // by method and the path up to its last slash
}

func newUpstream(tb testing.TB, behind http.Handler) *upstream {
	tb.Helper()
	u := &upstream{behind: behind, canned: make(map[string]http.HandlerFunc), prefixed: make(map[string]http.HandlerFunc)}
	h := httptest.NewUnstartedServer(u)
	h.Listener = endListener{h.Listener, &u.discards}
	h.Start()
	tb.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
	})
	base, err := url.Parse(h.URL)
	if err != nil {
		tb.Fatal(err)
	}
	u.url = base
	return u
}

// on answers a method and path from now on.
func (u *upstream) on(method, path string, answer http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.canned[method+" "+path] = answer
}

// below answers a method and whatever follows a path that ends with a slash.
func (u *upstream) below(method, path string, answer http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.prefixed[method+" "+path] = answer
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.Method + " " + r.URL.EscapedPath()
	u.mu.RLock()
	answer := u.canned[path]
	if answer == nil {
		answer = u.prefixed[path[:strings.LastIndexByte(path, '/')+1]]
	}
	u.mu.RUnlock()
	if answer == nil {
		u.behind.ServeHTTP(w, r)
		return
	}
	answer(w, r)
}

// text answers with JSON that is there already.
func text(body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Body != http.NoBody {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = w.Write(body)
	}
}

// stack is the proxy as the command wires it, behind a listener.
type stack struct {
	tb   testing.TB
	url  string
	path string // of the database
	db   *store.DB
	eng  *e2ee.Engine
}

// engineOptions are those of the command's defaults.
func engineOptions(tb testing.TB, base *url.URL, db *store.DB) e2ee.Options {
	tb.Helper()
	transport, err := proxy.NewTransport("", 10*time.Second, 0, time.Minute)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(transport.CloseIdleConnections)
	return e2ee.Options{
		Store: db, Homeserver: base, Client: &http.Client{Transport: transport}, Log: zerolog.Nop(), Spread: -1,
		Policy: func() trustcache.Policy { return trustcache.Policy{} },
	}
}

func openStore(tb testing.TB, path string) *store.DB {
	tb.Helper()
	return openStoreWith(tb, path, true)
}

// openStoreWith is openStore with or without the audit log.
func openStoreWith(tb testing.TB, path string, audit bool) *store.DB {
	tb.Helper()
	return openDatabase(tb, store.Options{URL: secret.NewString("sqlite:" + path), Audit: audit})
}

// openReplica opens a PostgreSQL database as one of several processes.
func openReplica(tb testing.TB, url string) *store.DB {
	tb.Helper()
	return openDatabase(tb, store.Options{URL: secret.NewString(url), Audit: true, Cluster: &store.Cluster{Advertise: "http://replica"}})
}

// masterKey is 32 bytes.
func masterKey() []byte { return bytes.Repeat([]byte{7}, 32) }

func openDatabase(tb testing.TB, o store.Options) *store.DB {
	tb.Helper()
	key, err := store.NewMasterKey(secret.Bytes(masterKey()))
	if err != nil {
		tb.Fatal(err)
	}
	o.MasterKeys = store.MasterKeys{Current: key}
	db, err := store.Open(context.Background(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

func startEngine(tb testing.TB, o e2ee.Options) *e2ee.Engine {
	tb.Helper()
	eng, err := e2ee.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := eng.Start(context.Background()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := eng.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return eng
}

// newStack starts the proxy on an empty database on a disk.
func newStack(tb testing.TB, up *upstream) *stack {
	tb.Helper()
	return newStackWith(tb, up, nil)
}

// newStackWith is newStack with other options of the engine. change may be nil.
func newStackWith(tb testing.TB, up *upstream, change func(*e2ee.Options)) *stack {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "e2ee.db")
	return newStackOn(tb, up, path, openStore(tb, path), change)
}

// newStackOn is newStackWith on a database that is open.
func newStackOn(tb testing.TB, up *upstream, path string, db *store.DB, change func(*e2ee.Options)) *stack {
	tb.Helper()
	o := engineOptions(tb, up.url, db)
	if change != nil {
		change(&o)
	}
	eng := startEngine(tb, o)
	return &stack{tb: tb, url: serveProxy(tb, up.url, db, eng), path: path, db: db, eng: eng}
}

func serveProxy(tb testing.TB, base *url.URL, db *store.DB, eng *e2ee.Engine) string {
	tb.Helper()
	handlers, err := interceptors.Handlers(interceptors.Options{Sync: interceptors.SyncOptions{SpoolDir: tb.TempDir(), SpoolMemory: int64(config.Default().Limits.SpoolMemory)}})
	if err != nil {
		tb.Fatal(err)
	}
	front, err := proxy.New(proxy.Options{
		Homeserver: base, Handlers: handlers, Devices: interceptors.NewDevices(eng), Log: zerolog.New(io.Discard),
		Hash: func(b []byte) [32]byte { return db.Hash("access token", b) },
	})
	if err != nil {
		tb.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- front.Serve(ctx, ln) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			tb.Error(err)
		}
		front.Close()
	})
	return "http://" + ln.Addr().String()
}

// device returns a device that is signed, backed up and recoverable.
func (s *stack) device(who liar.Session) *e2ee.Device {
	s.tb.Helper()
	d, err := s.eng.Device(context.Background(), id.UserID(who.UserID), id.DeviceID(who.DeviceID), secret.NewString(who.Token))
	if err != nil {
		s.tb.Fatal(err)
	}
	d.PublishWithin(0)
	await(s.tb, "the device does not get in order", func() bool {
		status, err := d.Status(context.Background())
		return err == nil && status.Identity.DeviceSigned && status.Backup.Trusted
	})
	return d
}

var errNotYet = errors.New("not yet")

// await waits until a condition holds, a minute at most.
func await(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	awaitFor(tb, time.Minute, what, holds)
}

func awaitFor(tb testing.TB, most time.Duration, what string, holds func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	err := testproc.Await(ctx, func(context.Context) error {
		if holds() {
			return nil
		}
		return errNotYet
	})
	if err != nil {
		tb.Fatalf("%s: %v", what, err)
	}
}

// client is a client on one kept connection.
type client struct {
	tb    testing.TB
	base  string
	token string
	http  *http.Client
}

func newClient(tb testing.TB, base, token string) *client {
	tb.Helper()
	transport := &http.Transport{DisableCompression: true}
	tb.Cleanup(transport.CloseIdleConnections)
	return &client{tb: tb, base: base, token: token, http: &http.Client{Transport: transport}}
}

// do makes a request and returns the answer's length; the body goes to into unless nil.
func (c *client) do(method, path string, body []byte, into *bytes.Buffer) int64 {
	c.tb.Helper()
	req, err := http.NewRequest(method, c.base+"/_matrix/client/v3/"+path, bytes.NewReader(body))
	if err != nil {
		c.tb.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http.Do(req)
	if err != nil {
		c.tb.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, err := io.ReadAll(io.LimitReader(resp.Body, 500))
		c.tb.Fatalf("%s %s: status %d: %s, %v", method, path, resp.StatusCode, said, err)
	}
	to := io.Discard
	if into != nil {
		to = into
	}
	n, err := io.Copy(to, resp.Body)
	if err != nil {
		c.tb.Fatalf("%s %s: %v", method, path, err)
	}
	return n
}
