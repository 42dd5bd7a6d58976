package rediscache

import (
	"bytes"
	"testing"
	"time"

	"e2ee-proxy/internal/testredis"
)

const inRounds Kind = "rounds of the test"

// The newest value is found by every replica, claims end with the round, and what a replica
// says is heard by the others.
func TestRounds(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t)
	here := newReplica(t, redis.URL())
	there := newReplica(t, redis.URL())
	heard := make(chan []byte, 1)
	there.Listen(inRounds, Listener{Said: func(said []byte) { heard <- said }})
	here.runs()
	there.runs()
	here.await("entries are believed", func() bool {
		since, ok := there.Listening()
		return ok && time.Since(since) > maxSkew
	})
	a, b := here.Rounds(inRounds, time.Minute), there.Rounds(inRounds, time.Minute)
	names := []string{"@bob:hs", "@carol:hs"}
	values, rounds := a.Newest(t.Context(), names)
	if values[0] != nil || values[1] != nil || len(rounds) != 2 {
		t.Fatalf("found %q in an empty Redis", values)
	}
	if first := a.Claim(t.Context(), names, rounds); !first[0] || !first[1] {
		t.Error("nobody has claimed before")
	}
	if second := b.Claim(t.Context(), names, rounds); second[0] || second[1] {
		t.Error("claimed by both")
	}
	a.Leave(t.Context(), map[string][]byte{"@bob:hs": []byte("one")})
	values, after := b.Newest(t.Context(), names)
	if string(values[0]) != "one" || values[1] != nil || after[0] <= rounds[0] {
		t.Errorf("found %q in rounds %v", values, after)
	}
	if next := b.Claim(t.Context(), names[:1], after[:1]); !next[0] {
		t.Error("the next round was claimed before")
	}
	b.Leave(t.Context(), map[string][]byte{"@bob:hs": []byte("two")})
	if values, newest := a.Newest(t.Context(), names[:1]); string(values[0]) != "two" || newest[0] <= after[0] {
		t.Errorf("found %q in round %d", values, newest[0])
	}
	a.Say(t.Context(), []byte("so far"))
	if got := <-heard; !bytes.Equal(got, []byte("so far")) {
		t.Errorf("heard %q", got)
	}
}

// Without a Redis there is nothing, and everybody may do everything.
func TestNoRounds(t *testing.T) {
	t.Parallel()
	r := (*Cache)(nil).Rounds(inRounds, time.Minute)
	r.Leave(t.Context(), map[string][]byte{"@bob:hs": []byte("one")})
	r.Say(t.Context(), nil)
	values, rounds := r.Newest(t.Context(), []string{"@bob:hs"})
	if values[0] != nil || rounds[0] != 0 || !r.Claim(t.Context(), []string{"@bob:hs"}, rounds)[0] {
		t.Error("something is there")
	}
}
