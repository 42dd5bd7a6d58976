package attempts

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"e2ee-proxy/internal/rediscache"
	"e2ee-proxy/internal/testredis"
)

// cacheOf makes what one replica has of a Redis.
func cacheOf(t *testing.T, url string, timeout time.Duration) *rediscache.Cache {
	t.Helper()
	address, err := rediscache.ParseAddress(url)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rediscache.New(rediscache.Options{
		Address: address, Timeout: timeout, Homeserver: "https://hs", Log: zerolog.Nop(),
		Hash: func(purpose string, data []byte) [32]byte {
			h := hmac.New(sha256.New, []byte("root "+purpose))
			h.Write(data)
			return [32]byte(h.Sum(nil))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

const (
	timeout  = 5 * time.Second
	burst    = 5
	interval = time.Hour // so long that nothing passes again during a test
)

// replicasOf returns the limit of each of n replicas.
func replicasOf(t *testing.T, redis *testredis.Server, n int) []*Limit {
	t.Helper()
	out := make([]*Limit, n)
	for i := range out {
		var err error
		if out[i], err = New(cacheOf(t, redis.URL(), timeout), "guesses", burst, interval); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// guess returns how many of n attempts under a name pass, which the replicas get in turn.
func guess(t *testing.T, name string, n int, at ...*Limit) (passed int) {
	t.Helper()
	for i := range n {
		wait := at[i%len(at)].Take(t.Context(), name, time.Now())
		if wait == 0 {
			passed++
		} else if wait > burst*interval {
			t.Errorf("told to wait %v", wait)
		}
	}
	return passed
}

// Attack: passwords of one account are guessed at through a load balancer, so that each of
// three replicas sees a third of the guesses, in turn or all at once. Together they let no more
// pass than one would.
func TestGuessesAreSpreadOverReplicas(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	replicas := replicasOf(t, redis, 3)
	if n := guess(t, "alice", 60, replicas...); n != burst {
		t.Errorf("%d guesses pass in turn, not %d", n, burst)
	}
	if n := guess(t, "bob", 1, replicas[2]); n != 1 {
		t.Error("somebody else may not try")
	}
	var passed atomic.Int64
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			if replicas[i%3].Take(t.Context(), "carol", time.Now()) == 0 {
				passed.Add(1)
			}
		})
	}
	all.Wait()
	if n := passed.Load(); n != burst {
		t.Errorf("%d guesses pass at once, not %d", n, burst)
	}
	// A replica that starts anew, or gets the account now, knows what was tried.
	if n := guess(t, "alice", 1, replicasOf(t, redis, 1)...); n != 0 {
		t.Error("one that starts lets guesses pass")
	}
}

// What Redis refuses does not count in the process, which would refuse for longer.
func TestRefusedByRedisDoesNotCount(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	replicas := replicasOf(t, redis, 2)
	guess(t, "alice", burst, replicas[0])
	if n := guess(t, "alice", 20, replicas[1]); n != 0 {
		t.Fatalf("%d guesses pass", n)
	}
	redis.Client().FlushAll(t.Context())
	if n := guess(t, "alice", 20, replicas[1]); n != burst {
		t.Errorf("afterwards %d guesses pass, not %d", n, burst)
	}
}

// Attack: whoever has Redis makes it forget what was counted, by emptying it before each guess, or
// takes it away. Each replica's own count holds.
func TestGuessesWhileRedisLiesLow(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	replicas := replicasOf(t, redis, 2)
	passed := 0
	for i := range 40 {
		redis.Client().FlushAll(t.Context())
		passed += guess(t, "alice", 1, replicas[i%2])
	}
	if passed != 2*burst {
		t.Errorf("%d guesses pass while Redis is emptied, not %d", passed, 2*burst)
	}
	redis.Kill()
	if n := guess(t, "alice", 40, replicas...); n != 0 {
		t.Errorf("%d more guesses pass without Redis", n)
	}
	if n := guess(t, "bob", 40, replicas...); n != 2*burst {
		t.Errorf("%d guesses pass without Redis, not %d", n, 2*burst)
	}
}

// Attack: whoever has Redis wants to keep somebody out: it fills the places of their name with
// text of its own, with those of another name, with lists; or brings back what was counted when that
// is over. Only what replicas have counted refuses, and no longer than it would have.
func TestSomebodyIsKeptOutByRedis(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	replicas := replicasOf(t, redis, 2)
	admin := redis.Client()
	guess(t, "mallory", burst, replicas[0])
	guess(t, "alice", burst, replicas[0])
	keys := admin.Keys(t.Context(), "*").Val()
	if len(keys) != 2*burst {
		t.Fatalf("%d places are taken: %q", len(keys), keys)
	}
	values := map[string]string{}
	for _, key := range keys {
		if strings.Contains(key, "alice") {
			t.Error("a name is readable")
		}
		if life := admin.TTL(t.Context(), key).Val(); life <= 0 || life > (burst+1)*interval {
			t.Errorf("a place is kept for %v", life)
		}
		values[key] = admin.Get(t.Context(), key).Val()
	}
	for what, put := range map[string]func(i int){
		"text":    func(i int) { admin.Set(t.Context(), keys[i], "taken", 0) },
		"another": func(i int) { admin.Set(t.Context(), keys[i], values[keys[(i+1)%len(keys)]], 0) },
		"list":    func(i int) { admin.Del(t.Context(), keys[i]); admin.LPush(t.Context(), keys[i], values[keys[i]]) },
	} {
		for i := range keys {
			put(i)
		}
		fresh := replicasOf(t, redis, 1)
		if n := guess(t, "alice", 20, fresh...); n != burst {
			t.Errorf("%s: %d attempts pass, not %d", what, n, burst)
		}
	}
	// What replicas have counted themselves, and somebody kept, is over when its time is.
	brief, err := New(cacheOf(t, redis.URL(), timeout), "brief", 2, 250*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	admin.FlushAll(t.Context())
	guess(t, "alice", 2, brief)
	kept := map[string]string{}
	for _, key := range admin.Keys(t.Context(), "*").Val() {
		kept[key] = admin.Get(t.Context(), key).Val()
	}
	over := time.Now().Add(4 * 250 * time.Millisecond)
	for time.Now().Before(over) {
		for key, value := range kept {
			admin.Set(t.Context(), key, value, 0)
		}
	}
	if n := guess(t, "alice", 1, brief); n != 1 {
		t.Error("what was over refuses")
	}
}

// A Redis that does not answer is waited for once, and not at all while it is known.
func TestRedisThatHangs(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	limit, err := New(cacheOf(t, redis.URL(), 300*time.Millisecond), "guesses", burst, interval)
	if err != nil {
		t.Fatal(err)
	}
	guess(t, "alice", 1, limit)
	if err := redis.Client().Do(t.Context(), "CLIENT", "PAUSE", "60000", "ALL").Err(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for i := range 20 {
		if n := guess(t, fmt.Sprint("user ", i), 1, limit); n != 1 {
			t.Error("an attempt is refused")
		}
	}
	if took := time.Since(began); took > 5*time.Second { // 20 times the timeout would be more
		t.Errorf("20 attempts took %v", took)
	}
}
