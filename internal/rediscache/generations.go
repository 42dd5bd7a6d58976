package rediscache

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// generationLife is how long a generation is kept, which is longer than any entry.
const generationLife = 24 * time.Hour

// Generations returns the current generations of names; zero where it is not known.
func (c *Cache) Generations(ctx context.Context, kind Kind, names ...string) []uint64 {
	out := make([]uint64, len(names))
	if _, listening := c.Listening(); !listening || len(names) == 0 {
		return out
	}
	found := make([]*redis.StringCmd, len(names))
	if !c.do(ctx, "generations", func(ctx context.Context) error {
		pipe := c.client.Pipeline()
		for i, name := range names {
			found[i] = pipe.Get(ctx, c.generationPlace(kind, name))
		}
		_, err := pipe.Exec(ctx)
		return notNil(err)
	}) {
		return out
	}
	for i := range found {
		out[i], _ = found[i].Uint64() // not a number is not known
	}
	return out
}

// Raise begins a new generation of each name and returns them; zero where Redis does not say. It
// is higher than any before, also when Redis lost what it had: counting begins at the time of day.
func (c *Cache) Raise(ctx context.Context, kind Kind, names ...string) []uint64 {
	out := make([]uint64, len(names))
	if c == nil || len(names) == 0 {
		return out
	}
	begin := micros(c.now())
	raised := make([]*redis.IntCmd, len(names))
	if !c.do(ctx, "raise", func(ctx context.Context) error {
		pipe := c.client.Pipeline()
		for i, name := range names {
			at := c.generationPlace(kind, name)
			pipe.SetNX(ctx, at, begin, generationLife)
			raised[i] = pipe.Incr(ctx, at)
			pipe.Expire(ctx, at, generationLife)
		}
		_, err := pipe.Exec(ctx)
		return notNil(err)
	}) {
		return out
	}
	for i := range raised {
		if n, err := raised[i].Result(); err == nil && n > 0 {
			out[i] = uint64(n)
		}
	}
	return out
}

func (c *Cache) generationPlace(kind Kind, name string) string {
	return c.prefix + string(kind) + ":" + c.name(kind, name) + ":generation"
}
