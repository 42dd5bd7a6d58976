package rediscache

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/internal/testredis"
)

const testTimeout = time.Second

// hashOf is the keyed hash of a database.
func hashOf(root string) func(string, []byte) [32]byte {
	return func(purpose string, data []byte) [32]byte {
		h := hmac.New(sha256.New, []byte(root))
		_, _ = fmt.Fprintf(h, "%d:%s", len(purpose), purpose)
		h.Write(data)
		return [32]byte(h.Sum(nil))
	}
}

// replica is a process's cache, with what it was told.
type replica struct {
	*Cache
	t    *testing.T
	mu   sync.Mutex
	told []string
}

func (r *replica) note(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, what)
}

func (r *replica) heardOf() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.told...)
}

// newReplica makes a cache that does not run yet.
func newReplica(t *testing.T, url string, changes ...func(*Options)) *replica {
	t.Helper()
	address, err := ParseAddress(url)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Address: address, Timeout: testTimeout, Hash: hashOf("root"), Homeserver: "https://hs", Log: zerolog.Nop()}
	for _, change := range changes {
		change(&o)
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{Cache: c, t: t}
	c.Listen("tokens", Listener{
		Dropped:     func(names []string) { r.note(fmt.Sprint("dropped ", names)) },
		Said:        func(said []byte) { r.note("said " + string(said)) },
		Interrupted: func() { r.note("interrupted") },
	})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// runs runs the cache until the test ends, and waits until it listens.
func (r *replica) runs() *replica {
	r.t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(r.t.Context()))
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	r.await("it listens", func() bool { _, ok := r.Listening(); return ok })
	return r
}

func (r *replica) await(what string, is func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	if err := testproc.Await(ctx, func(context.Context) error {
		if !is() {
			return fmt.Errorf("not yet: %s", what)
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
}

// later moves the clock of a replica, before it runs.
func later(r *replica, by time.Duration) *replica {
	r.now = func() time.Time { return time.Now().Add(by) }
	return r
}

func token(name string) Key { return Key{Kind: "tokens", Name: name} }

// entry was made so long after the replicas began to listen that nobody doubts it.
func entry(name, value string) Entry {
	now := time.Now()
	return Entry{Key: token(name), Value: []byte(value), Made: now.Add(maxSkew - 5*time.Microsecond), Until: now.Add(time.Minute)}
}

func (r *replica) get(keys ...Key) []string {
	r.t.Helper()
	var out []string
	for _, e := range r.Get(r.t.Context(), keys...) {
		out = append(out, string(e.Value))
	}
	return out
}

// wants fails the test unless these are the values.
func (r *replica) wants(why string, key Key, want string) {
	r.t.Helper()
	if got := r.get(key); got[0] != want {
		r.t.Errorf("%s: got %q, want %q", why, got[0], want)
	}
}

func (r *replica) entries(result string) float64 {
	return testutil.ToFloat64(r.metrics.entries.WithLabelValues("tokens", result))
}

// raw returns where in Redis an entry is.
func (r *replica) raw(k Key) string { return r.place(k) }

func startRedis(t *testing.T, args ...string) *testredis.Server {
	t.Helper()
	return testredis.Start(t, args...)
}
