package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testpeer"
	"e2ee-proxy/internal/testpg"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/internal/testproxy"
)

// randomKey returns 32 random bytes in base64.
func randomKey(t *testing.T) string {
	t.Helper()
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(key[:])
}

// cluster is what replicas have in common.
type cluster struct {
	database, key, secret string
}

func newCluster(t *testing.T) cluster {
	t.Helper()
	server := new(testpg.Server)
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return cluster{server.Database(t), randomKey(t), randomKey(t)}
}

// settings are those of one replica.
func (c cluster) settings(t *testing.T) string {
	t.Helper()
	ports, err := testproc.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("database: {url: %q}\nmaster_key: {key: %q}\ncluster: {listen: '127.0.0.1:%d', advertise: 'http://127.0.0.1:%d', secret: %q}\n",
		c.database, c.key, ports[0], ports[0], c.secret)
}

func (c cluster) start(t *testing.T, hs *tesths.Homeserver) *testproxy.Proxy {
	t.Helper()
	return testproxy.Start(t, hs.URL, testproxy.Options{Config: c.settings(t)})
}

// balancer sends requests to replicas in turn, as a load balancer does. One that cannot be
// reached is left out; what it broke off is sent to the next, if it can be.
type balancer struct {
	mu   sync.Mutex
	up   []string
	next int
}

func (b *balancer) use(replicas ...*testproxy.Proxy) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.up = nil
	for _, p := range replicas {
		b.up = append(b.up, strings.TrimPrefix(p.URL, "http://"))
	}
}

func (b *balancer) RoundTrip(r *http.Request) (*http.Response, error) {
	for tries := 0; ; tries++ {
		b.mu.Lock()
		b.next++
		host := b.up[b.next%len(b.up)]
		b.mu.Unlock()
		to := r.Clone(r.Context())
		to.URL.Host, to.Host = host, ""
		if r.GetBody != nil {
			var err error
			if to.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
		resp, err := http.DefaultTransport.RoundTrip(to)
		if err == nil || tries == 1 || r.Context().Err() != nil {
			return resp, err
		}
	}
}

// owned returns how many accounts a replica has.
func owned(t *testing.T, p *testproxy.Proxy) string {
	t.Helper()
	page, err := p.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return metric(page, "e2ee_proxy_cluster_accounts")
}

// metric returns the value of a metric without labels, or with those in its name.
func metric(page, name string) string {
	for line := range strings.Lines(page) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// awaitMetric waits until a metric has a value.
func awaitMetric(t *testing.T, p *testproxy.Proxy, name, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testpeer.Deadline)
	defer cancel()
	err := testproc.Await(ctx, func(ctx context.Context) error {
		page, err := p.Metrics(ctx)
		if err == nil && metric(page, name) != want {
			err = fmt.Errorf("%s is %q, not %q", name, metric(page, name), want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// killWait is how long a client may have to wait when the owner of its account was killed,
// drainWait when it was stopped in good order.
const killWait, drainWait = 5 * time.Second, 3 * time.Second

// A plain client talks with an Element peer through two replicas in turn. The one that has its
// account is killed: the client goes on with the other, within seconds and without an error. The
// other is stopped in good order: a sync that waits there ends early, and the client goes on at
// once.
func TestReplicas(t *testing.T) {
	t.Parallel()
	hs := shared.Dendrite(t)
	shared := newCluster(t)
	a, b := shared.start(t, hs), shared.start(t, hs)
	front := &balancer{}
	front.use(a, b)

	alice := element(t, hs, testpeer.NodeHost(t), "alice")
	bot := newAccount(t, hs, "bot")
	bob := newCurl(t, a.URL, tesths.Account{})
	bob.http.Transport = front
	session, err := bob.http.Login(t.Context(), bot.UserID, bot.Password, "")
	if err != nil {
		t.Fatal(err)
	}
	bob.account, bob.http = session, bob.http.As(session)
	converse(t, hs, alice, bob, bot)

	room := bob.createRoom(alice.UserID)
	alice.AwaitRoom(room, "invite")
	alice.Join(room)
	wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "before")), "before")

	awaitMetric(t, a, "e2ee_proxy_cluster_replicas", "2")
	owner, other := a, b
	if owned(t, b) == "1" {
		owner, other = b, a
	}
	awaitMetric(t, owner, "e2ee_proxy_cluster_accounts", "1")
	if forwardedTo(t, other) == "0" {
		t.Error("nothing was handed on")
	}
	front.use(other)
	began := time.Now()
	owner.Kill()
	sent := bob.SendText(room, "after the kill")
	if took := time.Since(began); took > killWait {
		t.Errorf("the client waited %v", took)
	}
	wantClean(t, alice.AwaitDecrypted(room, sent), "after the kill")
	answer := alice.SendText(room, "I am still here")
	bob.Await(room, testpeer.Where{"event_id": answer, "body": "I am still here"})

	if err := owner.Start(t.Context()); err != nil { // the account stays where it is
		t.Fatal(err)
	}
	drained(t, bob, room, other, owner, front)
	wantClean(t, alice.AwaitDecrypted(room, bob.SendText(room, "after all")), "after all")
	answer = alice.SendText(room, "so am I")
	bob.Await(room, testpeer.Where{"event_id": answer, "body": "so am I"})
}

// drained stops the replica that has an account while a sync waits there for the other one.
func drained(t *testing.T, bob *curl, room string, owner, other *testproxy.Proxy, front *balancer) {
	t.Helper()
	front.use(other)
	bob.until("nothing more", func() bool { return true })
	parked := make(chan error, 1)
	waiting := newCurl(t, other.URL, bob.account)
	waiting.since = bob.since
	go func() { parked <- waiting.trySync(t.Context(), 30*time.Second) }()
	awaitMetric(t, owner, `e2ee_proxy_requests_in_flight{lane="poll"}`, "1")
	stopped := make(chan error, 1)
	began := time.Now()
	go func() { stopped <- owner.Stop() }()
	if err := <-parked; err != nil {
		t.Errorf("the sync that waited: %v", err)
	}
	bob.SendText(room, "after the drain")
	if took := time.Since(began); took > drainWait {
		t.Errorf("the client waited %v", took)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// forwardedTo returns how many requests a replica has handed on.
func forwardedTo(t *testing.T, p *testproxy.Proxy) string {
	t.Helper()
	page, err := p.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return metric(page, `e2ee_proxy_cluster_forwarded_total{result="answered"}`)
}

// A replica with another secret, and a process without cluster, are refused at the start, in
// words.
func TestReplicaOfAnotherCluster(t *testing.T) {
	t.Parallel()
	hs := shared.Dendrite(t)
	c := newCluster(t)
	a := c.start(t, hs)
	other := c
	other.secret = randomKey(t)
	for name, try := range map[string]struct{ settings, want string }{
		"another secret":  {other.settings(t), "cluster.secret"},
		"without cluster": {fmt.Sprintf("database: {url: %q}\nmaster_key: {key: %q}\n", c.database, c.key), "in use"},
	} {
		t.Run(name, func(t *testing.T) {
			config := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(config, []byte(try.settings), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := a.Run(t.Context(), "serve", "--homeserver", hs.URL, "--listen", "127.0.0.1:0", "--ops-listen", "", "--config", config)
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok || !strings.Contains(string(exit.Stderr), try.want) {
				t.Fatalf("it runs, or does not say why not: %v", err)
			}
			if strings.Contains(string(exit.Stderr), c.secret) {
				t.Error("it says the secret")
			}
		})
	}
	if strings.Contains(a.Log(), c.secret) {
		t.Error("the log says the secret")
	}
}
