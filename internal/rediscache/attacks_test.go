package rediscache

import (
	"bytes"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// Attack: whoever can write to Redis puts an entry of their own making where a replica looks for
// one, such as "this token belongs to the administrator", or changes and cuts those that are there.
func TestAttackForgedEntry(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a := newReplica(t, redis.URL()).runs()
	admin := redis.Client()
	a.Put(t.Context(), entry("1", "one"))
	at := a.raw(token("1"))
	real := admin.Get(t.Context(), at).Val()
	changed := []byte(real)
	changed[len(changed)-1] ^= 1
	forgeries := map[string]string{
		"nothing": "", "text": `{"user_id":"@admin:hs"}`, "changed": string(changed), "cut": real[:len(real)-1],
		"longer": real + "x", "head only": real[:20], "zeros": string(make([]byte, 200)), "large": strings.Repeat("x", 4<<20),
	}
	for name, forged := range forgeries {
		if err := admin.Set(t.Context(), at, forged, 0).Err(); err != nil {
			t.Fatal(err)
		}
		a.wants(name, token("1"), "")
	}
	if n := a.entries(entryRefused); n != float64(len(forgeries)) {
		t.Errorf("%v were counted as refused, not %d", n, len(forgeries))
	}
	admin.Del(t.Context(), at)
	admin.LPush(t.Context(), at, real)
	a.wants("another type", token("1"), "")
	admin.Del(t.Context(), at)
	a.Put(t.Context(), entry("1", "one"))
	a.wants("put again", token("1"), "one")
}

// Attack: whoever can write to Redis moves a true entry: to the place of another name (so that one
// user's token is another's), of another kind, or of a newer generation (so that old devices
// look new).
func TestAttackSwappedEntries(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a := newReplica(t, redis.URL()).runs()
	admin := redis.Client()
	a.Put(t.Context(), entry("alice", "alice"))
	real := admin.Get(t.Context(), a.raw(token("alice"))).Val()
	for name, to := range map[string]Key{
		"another name":       token("bob"),
		"another kind":       {Kind: "devices", Name: "alice"},
		"another generation": {Kind: "tokens", Name: "alice", Generation: 1},
	} {
		admin.Set(t.Context(), a.raw(to), real, 0)
		a.wants(name, to, "")
	}
	a.wants("where it belongs", token("alice"), "alice")
}

// Attack: somebody keeps a copy of an entry, and puts it back after its name was dropped, when the
// token was revoked; or a look-up that began before the drop puts it back by itself.
func TestAttackReplayedEntryOfARevokedToken(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a, b, c := newReplica(t, redis.URL()).runs(), newReplica(t, redis.URL()).runs(), newReplica(t, redis.URL()).runs()
	a.Put(t.Context(), entry("1", "one"))
	at := a.raw(token("1"))
	kept := redis.Client().Get(t.Context(), at).Val()
	c.wants("before", token("1"), "one")
	b.Drop(t.Context(), "tokens", "1")
	if n := redis.Client().Exists(t.Context(), at).Val(); n != 0 {
		t.Error("what was dropped is still there")
	}
	for _, r := range []*replica{a, c} {
		r.await("it hears", func() bool { return slices.Contains(r.heardOf(), "dropped [1]") })
	}
	redis.Client().Set(t.Context(), at, kept, 0)
	for _, r := range []*replica{a, b, c} {
		r.wants("put back", token("1"), "")
	}
	redis.Client().Del(t.Context(), at)
	a.Put(t.Context(), entry("1", "one"))
	if n := redis.Client().Exists(t.Context(), at).Val(); n != 0 {
		t.Error("a look-up that began before put it back")
	}
	// A replica that starts afterwards has heard of no drop: it believes nothing from before.
	redis.Client().Set(t.Context(), at, kept, 0)
	late := newReplica(t, redis.URL()).runs()
	late.wants("put back, for one that starts afterwards", token("1"), "")
	if late.entries(entryStale) != 1 {
		t.Error("it was not refused as stale")
	}
}

// Attack: a revoked token is to be kept alive on one replica, so the drop is kept from it: its
// connection is cut while the drop is told. It believes nothing from before it could hear again.
func TestAttackDropKeptFromAReplica(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a, b := newReplica(t, redis.URL()).runs(), newReplica(t, redis.URL()).runs()
	a.Put(t.Context(), entry("1", "one"))
	at := a.raw(token("1"))
	kept := redis.Client().Get(t.Context(), at).Val()
	b.wants("before", token("1"), "one")
	before, _ := b.Listening()
	if err := redis.Client().Do(t.Context(), "CLIENT", "KILL", "TYPE", "PUBSUB").Err(); err != nil {
		t.Fatal(err)
	}
	a.Drop(t.Context(), "tokens", "1")
	redis.Client().Set(t.Context(), at, kept, 0)
	b.await("it listens again", func() bool { since, ok := b.Listening(); return ok && since.After(before) })
	b.wants("put back", token("1"), "")
	if heard := b.heardOf(); len(heard) < 3 || heard[1] != "interrupted" || heard[2] != "interrupted" {
		t.Errorf("its local copies were not ended: %q", heard)
	}
}

// Attack: a connection that is open and quiet, as to a master that was replaced: what is told
// goes elsewhere. The replica notices that its own beats do not come back.
func TestAttackQuietConnection(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a := newReplica(t, redis.URL()).runs()
	// From now on nothing that anybody publishes arrives.
	if err := redis.Client().Do(t.Context(), "ACL", "SETUSER", "default", "-publish").Err(); err != nil {
		t.Fatal(err)
	}
	a.await("it notices", func() bool { _, ok := a.Listening(); return !ok })
	a.wants("while it does not hear", token("1"), "")
}

// Attack: forged and foreign messages say that everything was dropped, or what they like.
func TestAttackForgedMessages(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a := newReplica(t, redis.URL()).runs()
	other := newReplica(t, redis.URL(), func(o *Options) { o.Hash = hashOf("another root") })
	a.Put(t.Context(), entry("1", "one"))
	foreign, err := other.sealMessage(message{Kind: "tokens", Dropped: [][]byte{[]byte("1")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, forged := range []string{"", "x", `{"all":true}`, string(foreign), redis.Client().Get(t.Context(), a.raw(token("1"))).Val()} {
		redis.Client().Publish(t.Context(), a.channel(), forged)
	}
	newReplica(t, redis.URL()).Publish(t.Context(), "tokens", []byte("end"))
	a.await("the true one is heard", func() bool { return slices.Contains(a.heardOf(), "said end") })
	if want := []string{"interrupted", "said end"}; !slices.Equal(a.heardOf(), want) {
		t.Errorf("heard %q, want %q", a.heardOf(), want)
	}
	a.wants("not dropped", token("1"), "one")
}

// Attack: Redis is emptied, or its restart empties it.
func TestAttackFlushed(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a := newReplica(t, redis.URL()).runs()
	a.Put(t.Context(), entry("1", "one"))
	redis.Client().FlushAll(t.Context())
	a.wants("flushed", token("1"), "")
	before, _ := a.Listening()
	a.Drop(t.Context(), "tokens", "2")
	redis.Kill()
	a.wants("gone", token("1"), "")
	redis.Restart()
	a.await("it listens again", func() bool { since, ok := a.Listening(); return ok && since.After(before) })
	a.await("it is used again", func() bool {
		a.Put(t.Context(), entry("1", "again"), entry("2", "not this"))
		return a.get(token("1"))[0] == "again"
	})
	a.wants("dropped before the restart", token("2"), "")
}

// Attack: two clusters, or one and a copy of it that serves another homeserver, share one Redis;
// or one answers where the other was. Neither finds, hears or harms what is the other's.
func TestAttackAnsweredByAnotherDatabase(t *testing.T) {
	t.Parallel()
	redis := startRedis(t)
	a := newReplica(t, redis.URL()).runs()
	a.Put(t.Context(), entry("1", "one"))
	real := redis.Client().Get(t.Context(), a.raw(token("1"))).Val()
	for name, change := range map[string]func(*Options){
		"another database":   func(o *Options) { o.Hash = hashOf("another root") },
		"another homeserver": func(o *Options) { o.Homeserver = "https://other" },
	} {
		b := newReplica(t, redis.URL(), change).runs()
		b.wants(name, token("1"), "")
		redis.Client().Set(t.Context(), b.raw(token("1")), real, 0)
		b.wants(name+", moved", token("1"), "")
		b.Drop(t.Context(), "tokens", "1")
	}
	newReplica(t, redis.URL()).Publish(t.Context(), "tokens", []byte("end"))
	a.await("it hears its own", func() bool { return slices.Contains(a.heardOf(), "said end") })
	a.wants("untouched", token("1"), "one")
}

// Attack: Redis answers slowly, or not at all. A few calls wait for the timeout, the others for
// nothing; and when it answers again it is used again.
func TestAttackSlowRedis(t *testing.T) {
	t.Parallel()
	const timeout = 50 * time.Millisecond
	redis := startRedis(t)
	a := newReplica(t, redis.URL(), func(o *Options) { o.Timeout = timeout }).runs()
	a.Put(t.Context(), entry("1", "one"))
	if err := redis.Client().Do(t.Context(), "CLIENT", "PAUSE", 600_000, "ALL").Err(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	const calls = 1000
	for range calls {
		a.wants("paused", token("1"), "")
	}
	if took := time.Since(began); took > 40*timeout {
		t.Errorf("%d calls took %s", calls, took)
	}
	a.Drop(t.Context(), "tokens", "2")
	redis.Kill()
	redis.Restart()
	b := newReplica(t, redis.URL()).runs()
	a.await("it is used again", func() bool {
		a.Put(t.Context(), entry("1", "again"))
		return a.get(token("1"))[0] == "again"
	})
	// What could not be told is told later.
	b.await("it hears", func() bool { return slices.Contains(b.heardOf(), "dropped [2]") })
}

// Attack: what answers is no Redis, and says what makes the client fall over.
func TestAttackNotARedis(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"HTTP/1.1 400 Bad Request\r\n\r\n", "*3\r\n:1\r\n:2\r\n:3\r\n", ">1\r\n:1\r\n", "$-5\r\n", "+\r\n", "*-1\r\n", "\x00\x00\x00\x00"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = conn.Close() }()
					buffer := make([]byte, 1024)
					for {
						if _, err := conn.Read(buffer); err != nil {
							return
						}
						if _, err := io.Copy(conn, bytes.NewReader([]byte(strings.Repeat(answer, 10)))); err != nil {
							return
						}
					}
				}()
			}
		}()
		a := newReplica(t, "redis://"+ln.Addr().String(), func(o *Options) { o.Timeout = 50 * time.Millisecond })
		if err := a.Check(t.Context()); err == nil {
			t.Errorf("%q: taken for a Redis", answer)
		}
		a.startHearing(time.Now())
		a.Put(t.Context(), entry("1", "one"))
		a.wants(answer, token("1"), "")
		a.Drop(t.Context(), "tokens", "1")
		a.stopHearing(nil)
		if err := a.subscribed(t.Context()); err == nil {
			t.Errorf("%q: subscribed", answer)
		}
		if _, ok := a.Listening(); ok {
			t.Errorf("%q: it believes that it hears", answer)
		}
	}
}
