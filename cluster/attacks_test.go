package cluster_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"e2ee-proxy/cluster"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// watched is a server of an attacker: it writes down all that it is sent.
type watched struct {
	*httptest.Server
	mu   sync.Mutex
	seen bytes.Buffer
}

func watch(t *testing.T, answer http.HandlerFunc) *watched {
	t.Helper()
	w := &watched{}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.mu.Lock()
		_ = r.Header.Write(&w.seen)
		w.seen.Write(body)
		w.mu.Unlock()
		answer(rw, r)
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *watched) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen.String()
}

// Attack: somebody who can write to the database, and knows nothing else, puts a URL of their own
// into the row of a replica, to be handed requests with their access tokens. They pass on what
// they are sent to a real replica, for it to vouch for them, and answer whatever seems best.
func TestFalseAddressInTheDatabaseGetsNoToken(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a, b := mustStart(t, l, "a", nil), mustStart(t, l, "b", nil)
	for name, answer := range map[string]http.HandlerFunc{
		"what a replica says": func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(map[string]any{"replica": "b2", "protocol": 1, "proof": "x"})
		},
		"nothing": func(http.ResponseWriter, *http.Request) {},
		"that all is well": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("E2ee-Proxy-Cluster-Result", "answered")
		},
		"what a real replica says": func(w http.ResponseWriter, r *http.Request) {
			r.RequestURI, r.URL.Scheme, r.URL.Host = "", "http", strings.TrimPrefix(b.row.Advertise, "http://")
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				return
			}
			defer resp.Body.Close()
			w.WriteHeader(resp.StatusCode)
			_, _ = io.Copy(w, resp.Body)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			evil := watch(t, answer)
			resp, err := a.send(t.Context(), store.Replica{Name: "b2 " + name, Advertise: evil.URL})
			if err == nil {
				_ = resp.Body.Close()
			}
			if !errors.Is(err, cluster.ErrStranger) && !errors.Is(err, cluster.ErrUnreached) {
				t.Errorf("got %v", err)
			}
			for _, hidden := range []string{"alice", "sync", goodSecret} {
				if strings.Contains(evil.all(), hidden) {
					t.Errorf("the attacker was sent %q", hidden)
				}
			}
		})
	}
}

// Attack: somebody on the replicas' network calls a replica's listener, with no proof, a wrong
// one, and one that a replica once gave to another URL.
func TestStrangersAreRefusedBeforeAnythingIsRead(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a, b := mustStart(t, l, "a", nil), mustStart(t, l, "b", nil)
	var stolen string
	evil := watch(t, func(http.ResponseWriter, *http.Request) {})
	if _, err := a.send(t.Context(), store.Replica{Name: "x", Advertise: evil.URL}); err == nil {
		t.Fatal("it was sent")
	}
	for line := range strings.SplitSeq(evil.all(), "\r\n") {
		if _, proof, ok := strings.Cut(line, "Proof: "); ok {
			stolen = proof
		}
	}
	if stolen == "" {
		t.Fatal("there was no proof to steal")
	}
	for _, proof := range []string{"", "x", stolen} {
		for _, path := range []string{"/v1/hello", "/v1/forward", "/v1/call/forget_account", "/", "/metrics"} {
			unread := &unreadBody{}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.row.Advertise+path, unread)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Expect", "100-continue")
			req.Header.Set("E2ee-Proxy-Cluster-Proof", proof)
			req.Header.Set("E2ee-Proxy-Cluster-To", "b")
			resp, err := (&http.Transport{ExpectContinueTimeout: 1 << 40}).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden || unread.was {
				t.Errorf("%s with %q: %d, body read: %v", path, proof, resp.StatusCode, unread.was)
			}
		}
	}
	if len(b.all()) != 0 || len(b.got) != 0 {
		t.Error("something was done")
	}
	if strings.Contains(b.log.String(), stolen) {
		t.Error("a proof is in the log")
	}
}

type unreadBody struct{ was bool }

func (u *unreadBody) Read([]byte) (int, error) { u.was = true; return 0, io.EOF }

// Attack by mistake: a replica is started with another secret, on the same database. It is refused
// at the start, in words, and is handed nothing.
func TestWrongSecretIsRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a := mustStart(t, l, "a", nil)
	c, err := start(t, l, "c", func(o *cluster.Options) { o.Secret = secret.NewString("another secret than the others have, as long") })
	if !errors.Is(err, cluster.ErrStranger) || !strings.Contains(err.Error(), "process a") || !strings.Contains(err.Error(), "cluster.secret") {
		t.Errorf("joining: %v", err)
	}
	resp, err := a.send(t.Context(), c.row)
	if err == nil {
		_ = resp.Body.Close()
	}
	if !errors.Is(err, cluster.ErrStranger) || len(c.got) != 0 {
		t.Errorf("handing on: %v", err)
	}
}

// An address that another process has now, and one at which there is something else, are told
// apart from a replica that does not answer.
func TestJoiningTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a := mustStart(t, l, "a", nil)
	other := watch(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") })
	l.set(func() {
		l.live["old"] = store.Replica{Name: "old", Process: "before", Advertise: a.row.Advertise}
		l.live["none"] = store.Replica{Name: "none", Process: "nobody", Advertise: "http://127.0.0.1:1"}
	})
	if silent, err := a.Join(t.Context()); err != nil || len(silent) != 2 {
		t.Errorf("%q do not answer, %v", silent, err)
	}
	l.set(func() { l.live["web"] = store.Replica{Name: "web", Process: "a page", Advertise: other.URL} })
	if _, err := a.Join(t.Context()); !errors.Is(err, cluster.ErrStranger) || !strings.Contains(err.Error(), "a page") {
		t.Errorf("got %v", err)
	}
}

// Two replicas are given one URL, by copying a file of settings: the second is refused at its
// start. (Requests would reach one of them only.)
func TestURLOfAnotherReplicaIsRefused(t *testing.T) {
	t.Parallel()
	l := newLedger()
	a := mustStart(t, l, "a", nil)
	_, err := start(t, l, "c", func(o *cluster.Options) { o.Advertise = a.row.Advertise })
	if !errors.Is(err, cluster.ErrStranger) || !strings.Contains(err.Error(), "cluster.advertise") {
		t.Errorf("got %v", err)
	}
}
