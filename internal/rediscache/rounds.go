package rediscache

import (
	"context"
	"time"
)

// Rounds are values of one kind of which the newest counts: each that is put begins a new
// generation of its name, which whoever looks for the name finds. It promises what a Cache
// does. A nil Cache has none.
type Rounds struct {
	cache *Cache
	kind  Kind
	life  time.Duration
}

// claimLife is how long a claim holds that nothing follows.
const claimLife = 5 * time.Second

// Rounds returns the rounds of a kind, whose values hold for as long as life. No other kind of
// use may be made of the kind.
func (c *Cache) Rounds(kind Kind, life time.Duration) Rounds { return Rounds{c, kind, life} }

// Newest returns what was put last for each name, nil where nothing is known, with its
// generation.
func (r Rounds) Newest(ctx context.Context, names []string) (values [][]byte, rounds []uint64) {
	values, rounds = make([][]byte, len(names)), r.cache.Generations(ctx, r.kind, names...)
	var keys []Key
	var at []int
	for i, round := range rounds {
		if round > 0 {
			keys, at = append(keys, Key{Kind: r.kind, Name: names[i], Generation: round}), append(at, i)
		}
	}
	for i, found := range r.cache.Get(ctx, keys...) {
		values[at[i]] = found.Value
	}
	return values, rounds
}

// Claim is [Cache.Claim] for the generation after each of rounds.
func (r Rounds) Claim(ctx context.Context, names []string, rounds []uint64) []bool {
	keys := make([]Key, len(names))
	for i, name := range names {
		keys[i] = Key{Kind: r.kind, Name: name, Generation: rounds[i]}
	}
	return r.cache.Claim(ctx, claimLife, keys...)
}

// Leave begins a generation of each name with a value.
func (r Rounds) Leave(ctx context.Context, values map[string][]byte) {
	if r.cache == nil {
		return
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	now := r.cache.now()
	var entries []Entry
	for i, round := range r.cache.Raise(ctx, r.kind, names...) {
		if round > 0 {
			entries = append(entries, Entry{
				Key: Key{Kind: r.kind, Name: names[i], Generation: round}, Value: values[names[i]], Made: now, Until: now.Add(r.life),
			})
		}
	}
	r.cache.Put(ctx, entries...)
}

// Say is [Cache.Publish].
func (r Rounds) Say(ctx context.Context, message []byte) { r.cache.Publish(ctx, r.kind, message) }
