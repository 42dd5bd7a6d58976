package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/rediscache"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/internal/testredis"
)

// sharing is a replica's identities, with how often it asked the homeserver.
type sharing struct {
	*identities
	t     *testing.T
	cache *rediscache.Cache
	asked atomic.Int32
	// revoked has the homeserver refuse.
	revoked atomic.Bool
	// during is called while the homeserver is asked.
	during func()
}

// lonely is a cluster in which nobody can be reached.
type lonely struct{ Owners }

func (lonely) TellDropped(context.Context, string, string) {}

// newSharing starts a replica, which listens.
func newSharing(t *testing.T, redis *testredis.Server) *sharing {
	t.Helper()
	s := &sharing{t: t, cache: newSharedCache(t, redis.URL())}
	s.identities = testIdentities(t, func(context.Context, credentials) (interceptors.Identity, error) {
		s.asked.Add(1)
		revoked := s.revoked.Load()
		if s.during != nil {
			s.during()
		}
		if revoked {
			return interceptors.Identity{}, apierr.UnknownToken(false)
		}
		return alice(), nil
	})
	s.share(s.cache, lonely{})
	runShared(t, s.identities)
	return s
}

// runShared lets identities hear other replicas until the test ends.
func runShared(t *testing.T, c *identities) {
	t.Helper()
	// What the cache believes was made well after it began to listen.
	c.now = func() time.Time { return time.Now().Add(1990 * time.Millisecond) }
	cache := c.others.cache
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- cache.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	// An entry has to be younger than that by the most that clocks may differ.
	awaits(t, "it listens", func() bool {
		since, ok := cache.Listening()
		return ok && time.Since(since) > 15*time.Millisecond
	})
}

func newSharedCache(t *testing.T, url string) *rediscache.Cache {
	t.Helper()
	address, err := rediscache.ParseAddress(url)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := rediscache.New(rediscache.Options{
		Address: address, Timeout: time.Second, Log: zerolog.Nop(), Homeserver: "https://hs",
		Hash: func(purpose string, data []byte) [32]byte { return testHash(append([]byte(purpose+":"), data...)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cache.Close() })
	return cache
}

func (s *sharing) await(what string, is func() bool) {
	s.t.Helper()
	awaits(s.t, what, is)
}

func awaits(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := testproc.Await(ctx, func(context.Context) error {
		if !is() {
			return fmt.Errorf("not yet: %s", what)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// isLetIn asks whose the token is, and reports whether it is somebody's.
func (s *sharing) isLetIn() bool {
	s.t.Helper()
	who, err := s.owner(s.t.Context(), credentials{token: "alice"})
	if err == nil && (who.UserID != "@alice:hs" || who.DeviceID != "ALICE" || who.Token.Reveal() != "alice") {
		s.t.Errorf("got %v", who)
	}
	return err == nil
}

// remembers reports whether the token is in memory.
func (s *sharing) remembers() bool {
	_, ok := s.cached(lookUpKey{token: s.hash([]byte("alice"))}, "alice")
	return ok
}

// wants fails the test unless each replica asked so often.
func wantAsked(t *testing.T, why string, want []int32, replicas ...*sharing) {
	t.Helper()
	var got []int32
	for _, s := range replicas {
		got = append(got, s.asked.Load())
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: the replicas asked %d times, want %d", why, got, want)
	}
}

// A token that one replica has confirmed is known to all, and to none for more than 60 seconds
// since that was asked for.
func TestIdentityIsSharedByReplicas(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	a, b := newSharing(t, redis), newSharing(t, redis)
	asked := a.now()
	if !a.isLetIn() || !b.isLetIn() || !b.isLetIn() {
		t.Error("not let in")
	}
	wantAsked(t, "confirmed once", []int32{1, 0}, a, b)
	found := b.cache.Get(t.Context(), rediscache.Key{Kind: kindToken, Name: nameOf(a.hash([]byte("alice")))})[0]
	if life := found.Until.Sub(found.Made); life != maxIdentityAge/2 || found.Made.Before(asked.Add(-time.Millisecond)) {
		t.Errorf("made at %s, asked at %s, kept for %s", found.Made, asked, life)
	}
	b.mu.Lock()
	all, _ := b.known.Peek(b.hash([]byte("alice")))
	until := all[assertedIdentity{}].until
	b.mu.Unlock()
	if until.After(found.Made.Add(maxIdentityAge)) || until.After(b.now().Add(maxIdentityAge/2)) {
		t.Errorf("believed until %s, asked at %s", until, asked)
	}
	// What an application service asserts is each replica's own.
	for _, s := range []*sharing{a, b} {
		if _, err := s.owner(t.Context(), credentials{token: "alice", user: "@ghost:hs"}); err != nil {
			t.Error(err)
		}
	}
	wantAsked(t, "asserted", []int32{2, 1}, a, b)
}

// Attack: a token that was logged out, or whose user changed the password, is used at another
// replica, which had confirmed it before.
func TestAttackRevokedTokenAtAnotherReplica(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	for name, drop := range map[string]func(*sharing){
		"logout":          func(s *sharing) { s.drop("alice") },
		"password change": func(s *sharing) { s.dropUser("@alice:hs") },
	} {
		a, b, c := newSharing(t, redis), newSharing(t, redis), newSharing(t, redis)
		for _, s := range []*sharing{a, b, c} {
			if !s.isLetIn() {
				t.Fatal("not let in")
			}
			s.revoked.Store(true)
		}
		drop(b)
		for _, s := range []*sharing{a, c} {
			s.await("it hears", func() bool { return !s.remembers() })
		}
		for _, s := range []*sharing{a, b, c} {
			if s.isLetIn() {
				t.Errorf("%s: let in", name)
			}
		}
		redis.Client().FlushAll(t.Context())
	}
}

// Attack: a look-up that began before a token was revoked is answered afterwards. It must not be
// kept, neither here nor for the other replicas; whether the revocation is here or elsewhere.
func TestAttackLookUpThatBeganBeforeADrop(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	for name, drop := range map[string]func(*sharing){
		"logout":          func(s *sharing) { s.drop("alice") },
		"password change": func(s *sharing) { s.dropUser("@alice:hs") },
	} {
		for _, here := range []bool{true, false} {
			a, b := newSharing(t, redis), newSharing(t, redis)
			at := b
			if here {
				at = a
			}
			a.during = func() {
				a.during = nil
				for _, s := range []*sharing{a, b} {
					s.revoked.Store(true)
				}
				drop(at)
				a.await("it hears", func() bool {
					return a.cache.Dropped(kindToken, nameOf(a.hash([]byte("alice")))) || a.cache.Dropped(kindUser, "@alice:hs")
				})
			}
			a.isLetIn() // it may be: it began before
			if a.remembers() || a.isLetIn() || b.isLetIn() {
				t.Errorf("%s, here %v: let in afterwards", name, here)
			}
			if keys := redis.Client().Keys(t.Context(), "*").Val(); len(keys) != 0 {
				t.Errorf("%s, here %v: kept for others: %q", name, here, keys)
			}
		}
	}
}

// Attack: somebody with access to Redis puts the entry of a revoked token back.
func TestAttackRevokedTokenPutBackIntoRedis(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	a, b := newSharing(t, redis), newSharing(t, redis)
	if !a.isLetIn() {
		t.Fatal("not let in")
	}
	admin := redis.Client()
	keys := admin.Keys(t.Context(), "*").Val()
	if len(keys) != 1 {
		t.Fatalf("%d entries", len(keys))
	}
	kept := admin.Get(t.Context(), keys[0]).Val()
	for _, s := range []*sharing{a, b} {
		s.revoked.Store(true)
	}
	a.dropUser("@alice:hs")
	b.await("it hears", func() bool { return b.cache.Dropped(kindUser, "@alice:hs") })
	admin.Set(t.Context(), keys[0], kept, 0)
	if a.isLetIn() || b.isLetIn() {
		t.Error("let in")
	}
	wantAsked(t, "put back", []int32{2, 1}, a, b)
}

// Attack: Redis dies, or is cut off, while a token is revoked: no replica could be told. Each
// forgets what it knew, and believes what it asks for itself only for some seconds.
func TestAttackRedisGoneWhileATokenIsRevoked(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	a, b := newSharing(t, redis), newSharing(t, redis)
	if !a.isLetIn() || !b.isLetIn() {
		t.Fatal("not let in")
	}
	redis.Kill()
	for _, s := range []*sharing{a, b} {
		s.await("it notices", func() bool { return !s.remembers() })
	}
	for range 2 {
		if !a.isLetIn() {
			t.Error("without Redis nobody is let in")
		}
	}
	wantAsked(t, "without Redis", []int32{2, 0}, a, b)
	a.mu.Lock()
	all, _ := a.known.Peek(a.hash([]byte("alice")))
	until := all[assertedIdentity{}].until
	a.mu.Unlock()
	if until.After(a.now().Add(unheardAge)) {
		t.Errorf("believed for %s", until.Sub(a.now()))
	}
	b.drop("alice")
	a.revoked.Store(true)
	redis.Restart()
	a.await("it hears of the drop afterwards", func() bool { return a.cache.Dropped(kindToken, nameOf(a.hash([]byte("alice")))) })
	if a.isLetIn() {
		t.Error("let in")
	}
}

// Replicas without a Redis cannot tell each other what they drop: what each asks for itself is
// believed for seconds. A process alone believes it for as long as ever.
func TestIdentityOfReplicasWithoutRedis(t *testing.T) {
	t.Parallel()
	for _, replicas := range []bool{true, false} {
		c := testIdentities(t, func(context.Context, credentials) (interceptors.Identity, error) { return alice(), nil })
		if replicas {
			c.share(nil, lonely{})
		} else {
			c.share(nil, nil)
		}
		began := time.Now()
		c.now = func() time.Time { return began }
		if _, err := c.owner(t.Context(), credentials{token: "alice"}); err != nil {
			t.Fatal(err)
		}
		c.now = func() time.Time { return began.Add(unheardAge) }
		if _, ok := c.cached(lookUpKey{token: c.hash([]byte("alice"))}, "alice"); ok == replicas {
			t.Errorf("with other replicas %v: known after %s: %v", replicas, unheardAge, ok)
		}
	}
}

// Attack: a token is logged out at one replica and used at another, over HTTP: it is dead there as
// soon as the other has heard. Until then it was asked about once for both, although each request
// was handed from one to the other.
func TestAttackTokenLoggedOutAtAnotherReplica(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	a, b := pair(t, func(o *Options) {
		o.Redis = newSharedCache(t, redis.URL())
		o.Handlers[interceptors.Sync] = seenBy(new([]interceptors.Identity))
	})
	for _, r := range []*replica{a, b} {
		runShared(t, r.proxy.identities)
	}
	const path = "/_matrix/client/v3/sync"
	for _, r := range []*replica{a, b, a, b} {
		if got := r.do("GET", path, "", "Authorization: Bearer alice"); got.StatusCode != 200 {
			t.Fatalf("%s: %d %s", r.name, got.StatusCode, got.body)
		}
	}
	if n := a.hs.whoamis(); n != 1 {
		t.Errorf("the homeserver was asked %d times", n)
	}
	if got := b.do("POST", "/_matrix/client/v3/logout", "{}", "Authorization: Bearer alice"); got.StatusCode != 200 {
		t.Fatalf("logout: %d %s", got.StatusCode, got.body)
	}
	a.hs.set(func() { delete(a.hs.tokens, "alice") })
	name := nameOf(a.proxy.identities.hash([]byte("alice")))
	awaits(t, "it hears", func() bool { return a.proxy.identities.others.cache.Dropped(kindToken, name) })
	for _, r := range []*replica{a, b} {
		if got := r.do("GET", path, "", "Authorization: Bearer alice"); got.StatusCode != 401 || got.errcode() != "M_UNKNOWN_TOKEN" {
			t.Errorf("%s: %d %s", r.name, got.StatusCode, got.body)
		}
	}
}

// Attack: one replica alone is cut off from Redis, a token is logged out there, and then it dies, so
// that another one takes the account. That one heard nothing over Redis, which is as good as ever for
// it, and has what the token was in there. It was told all the same.
func TestAttackTokenLoggedOutWhereRedisIsGone(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	cut := startCuttable(t, redis.Addr())
	caches := []*rediscache.Cache{newSharedCache(t, redis.URL()), newSharedCache(t, "redis://"+cut.addr)}
	n := 0
	l, hs := newLedger(), newHomeserver(t)
	change := func(o *Options) {
		o.Redis = caches[n]
		n++
		o.Handlers[interceptors.Sync] = seenBy(new([]interceptors.Identity))
	}
	a, b := newReplica(t, l, hs, "a", change), newReplica(t, l, hs, "b", change)
	l.give("@alice:hs", "b")
	for _, r := range []*replica{a, b} {
		runShared(t, r.proxy.identities)
	}
	const path = "/_matrix/client/v3/sync"
	for _, r := range []*replica{a, b} {
		if got := r.do("GET", path, "", "Authorization: Bearer alice"); got.StatusCode != 200 {
			t.Fatalf("%s: %d %s", r.name, got.StatusCode, got.body)
		}
	}
	cut.cut()
	if got := b.do("POST", "/_matrix/client/v3/logout", "{}", "Authorization: Bearer alice"); got.StatusCode != 200 {
		t.Fatalf("logout: %d %s", got.StatusCode, got.body)
	}
	hs.set(func() { delete(hs.tokens, "alice") })
	l.die("b")
	b.kill()
	if got := a.do("GET", path, "", "Authorization: Bearer alice"); got.StatusCode != 401 || got.errcode() != "M_UNKNOWN_TOKEN" {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

// cuttable is a way to a server that can be cut.
type cuttable struct {
	addr string
	ln   net.Listener

	mu    sync.Mutex
	gone  bool
	conns []net.Conn
}

func startCuttable(t *testing.T, to string) *cuttable {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cuttable{addr: ln.Addr().String(), ln: ln}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("tcp", to)
			if err != nil || !c.add(from, there) {
				_ = from.Close()
				continue
			}
			running.Go(func() { _, _ = io.Copy(there, from); _ = there.Close() })
			running.Go(func() { _, _ = io.Copy(from, there); _ = from.Close() })
		}
	})
	t.Cleanup(func() {
		c.cut()
		running.Wait()
	})
	return c
}

func (c *cuttable) add(conns ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conns...)
	return !c.gone
}

// cut ends all connections, and lets no others in.
func (c *cuttable) cut() {
	_ = c.ln.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}
