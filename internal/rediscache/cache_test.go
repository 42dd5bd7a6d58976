package rediscache

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"e2ee-proxy/internal/testredis"
)

// What one replica puts another finds, for many keys at once, and by generation.
func TestEntriesAreShared(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a, b := newReplica(t, redis.URL()).runs(), newReplica(t, "unix://"+redis.Socket()).runs()
	older, newer := entry("x", "older"), entry("x", "newer")
	older.Generation, newer.Generation = 1, 2
	a.Put(t.Context(), entry("1", "one"), entry("2", "two"), newer)
	a.Put(t.Context(), older)
	got := b.get(token("1"), token("missing"), token("2"), older.Key, newer.Key, token("x"))
	if want := []string{"one", "", "two", "older", "newer", ""}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Nothing in Redis names a token or says a value.
func TestNothingIsReadableInRedis(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a := newReplica(t, redis.URL()).runs()
	a.Put(t.Context(), entry("@alice:hs", "very secret"))
	keys := redis.Client().Keys(t.Context(), "*").Val()
	if len(keys) != 1 {
		t.Fatalf("%d keys", len(keys))
	}
	if !strings.HasPrefix(keys[0], a.prefix) {
		t.Errorf("%q does not begin with %q", keys[0], a.prefix)
	}
	value := redis.Client().Get(t.Context(), keys[0]).Val()
	if strings.Contains(keys[0]+value, "alice") || strings.Contains(value, "secret") {
		t.Errorf("readable: %q: %q", keys[0], value)
	}
	if life := redis.Client().PTTL(t.Context(), keys[0]).Val(); life <= 0 || life > time.Minute {
		t.Errorf("it is kept for %s", life)
	}
}

// An entry is believed for as long as it says, by the clock of who reads it.
func TestEntriesEnd(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a, late := newReplica(t, redis.URL()).runs(), later(newReplica(t, redis.URL()), time.Minute)
	early := later(newReplica(t, redis.URL()), -2*maxSkew)
	early.startHearing(time.Now().Add(-time.Hour))
	late.startHearing(time.Now().Add(-time.Hour))
	a.Put(t.Context(), entry("1", "one"))
	a.wants("within its time", token("1"), "one")
	late.wants("after its time", token("1"), "")
	early.wants("made in the future", token("1"), "")
	e := entry("over", "x")
	e.Until = time.Now()
	a.Put(t.Context(), e)
	if n := redis.Client().Exists(t.Context(), a.raw(e.Key)).Val(); n != 0 {
		t.Error("what is over was put")
	}
}

// The clock of one replica jumps. None of them believes an age until the clocks agree again; what
// is dropped is heard all the same.
func TestAttackClockThatJumps(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	var ahead atomic.Int64
	a, b := newReplica(t, redis.URL()), newReplica(t, redis.URL())
	b.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	a.runs()
	b.runs()
	a.Put(t.Context(), entry("1", "one"))
	b.wants("before", token("1"), "one")
	for _, jump := range []time.Duration{time.Hour, -time.Hour} {
		ahead.Store(int64(jump))
		for _, r := range []*replica{a, b} {
			r.await("it notices", func() bool { return r.get(token("1"))[0] == "" })
		}
		b.await("it hears", func() bool {
			a.Drop(t.Context(), "tokens", jump.String()) // again, for the case that it subscribes anew
			return slices.Contains(b.heardOf(), "dropped ["+jump.String()+"]")
		})
	}
	ahead.Store(0)
	a.await("they agree", func() bool {
		a.Put(t.Context(), entry("2", "two"))
		return a.get(token("2"))[0] == "two"
	})
}

// Names that are dropped are told to the others at once, and others' words too.
func TestOthersAreTold(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a, b := newReplica(t, redis.URL()).runs(), newReplica(t, redis.URL()).runs()
	a.Put(t.Context(), entry("1", "one"), entry("2", "two"))
	b.Drop(t.Context(), "tokens", "1")
	b.Publish(t.Context(), "tokens", []byte("hello"))
	b.Publish(t.Context(), "others", []byte("not for tokens"))
	b.Publish(t.Context(), "tokens", []byte("end"))
	a.await("all is heard", func() bool { return slices.Contains(a.heardOf(), "said end") })
	if want := []string{"interrupted", "dropped [1]", "said hello", "said end"}; !slices.Equal(a.heardOf(), want) {
		t.Errorf("heard %q, want %q", a.heardOf(), want)
	}
	if want := []string{"interrupted"}; !slices.Equal(b.heardOf(), want) {
		t.Errorf("who said it heard %q, want %q", b.heardOf(), want)
	}
	for _, r := range []*replica{a, b} {
		r.wants("dropped", token("1"), "")
		r.wants("not dropped", token("2"), "two")
	}
}

// Of several that ask, one finds out; without Redis everybody does.
func TestOneClaims(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a, b := newReplica(t, redis.URL()).runs(), newReplica(t, redis.URL()).runs()
	keys := []Key{token("1"), token("2")}
	first := a.Claim(t.Context(), time.Minute, keys[0])
	second := b.Claim(t.Context(), time.Minute, keys...)
	if !slices.Equal(first, []bool{true}) || !slices.Equal(second, []bool{false, true}) {
		t.Errorf("claimed %v, then %v", first, second)
	}
	var none *Cache
	if !slices.Equal(none.Claim(t.Context(), time.Minute, keys...), []bool{true, true}) {
		t.Error("without Redis nobody finds out")
	}
}

// Generations only rise, also when Redis loses them.
func TestGenerationsRise(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a, b := newReplica(t, redis.URL()).runs(), newReplica(t, redis.URL()).runs()
	if got := b.Generations(t.Context(), "tokens", "1", "2"); !slices.Equal(got, []uint64{0, 0}) {
		t.Errorf("generations that nobody raised: %d", got)
	}
	last := uint64(0)
	for range 3 {
		raised := a.Raise(t.Context(), "tokens", "1")[0]
		if raised <= last {
			t.Errorf("%d after %d", raised, last)
		}
		if got := b.Generations(t.Context(), "tokens", "1")[0]; got != raised {
			t.Errorf("another replica reads %d, not %d", got, raised)
		}
		last = raised
		redis.Client().FlushAll(t.Context())
	}
}

// The zero value is a cache without Redis: it finds nothing, tells nobody and does not fail.
func TestNoRedis(t *testing.T) {
	t.Parallel()
	var c *Cache
	c.Listen("tokens", Listener{})
	c.Put(t.Context(), entry("1", "one"))
	c.Drop(t.Context(), "tokens", "1")
	c.Publish(t.Context(), "tokens", []byte("x"))
	if got := c.Get(t.Context(), token("1")); len(got) != 1 || got[0].Value != nil || got[0].Name != "1" {
		t.Errorf("got %v", got)
	}
	if c.Raise(t.Context(), "tokens", "1")[0] != 0 || c.Generations(t.Context(), "tokens", "1")[0] != 0 {
		t.Error("it has generations")
	}
	for what, err := range map[string]error{"check": c.Check(t.Context()), "run": c.Run(t.Context()), "close": c.Close()} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A Redis Cluster serves keys from all of its nodes, and carries what is told between them.
func TestCluster(t *testing.T) {
	t.Parallel()
	nodes := testredis.StartCluster(t, 3)
	urlOf := func(i int) string { return "redis+cluster://" + nodes[i].Addr() + "," + nodes[(i+1)%3].Addr() }
	a, b := newReplica(t, urlOf(0)).runs(), newReplica(t, urlOf(1)).runs()
	if err := a.Check(t.Context()); err != nil {
		t.Error(err)
	}
	var keys []Key
	var want []string
	for name := range strings.SplitSeq("abcdefghijklmnop", "") {
		a.Put(t.Context(), entry(name, name))
		keys, want = append(keys, token(name)), append(want, name)
	}
	if got := b.get(keys...); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	b.Drop(t.Context(), "tokens", "a", "b", "c")
	a.await("it hears", func() bool { return slices.Contains(a.heardOf(), "dropped [a b c]") })
	if got := a.get(keys[:4]...); !slices.Equal(got, []string{"", "", "", "d"}) {
		t.Errorf("after dropping: %q", got)
	}
	if raised := a.Raise(t.Context(), "tokens", "a", "b", "c", "d"); slices.Contains(raised, 0) {
		t.Errorf("raised %d", raised)
	}
}

// Sentinels say who the master is. When it dies, another takes its place, and the replicas find
// each other there.
func TestSentinel(t *testing.T) {
	t.Parallel()
	master, _, sentinel := testredis.StartSentinel(t)
	url := "redis+sentinel://" + sentinel.Addr() + "/main"
	a, b := newReplica(t, url).runs(), newReplica(t, url).runs()
	if err := a.Check(t.Context()); err != nil {
		t.Error(err)
	}
	a.Put(t.Context(), entry("1", "one"))
	b.wants("put by the other", token("1"), "one")
	before, _ := a.Listening()
	master.Kill()
	for _, r := range []*replica{a, b} {
		r.await("it listens to the new master", func() bool { since, ok := r.Listening(); return ok && since.After(before) })
	}
	a.await("what is put is found", func() bool {
		a.Put(t.Context(), entry("2", "two"))
		return b.get(token("2"))[0] == "two"
	})
	a.Drop(t.Context(), "tokens", "2")
	b.await("it hears", func() bool { return slices.Contains(b.heardOf(), "dropped [2]") })
}
