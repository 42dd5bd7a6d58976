package rediscache

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"e2ee-proxy/internal/seal"
)

const (
	// maxValue is how large a value may be, in bytes. Larger ones are not kept.
	maxValue = 1 << 20
	// layout is the first byte of a value before it is sealed.
	layout = 1
	// headSize is the length of what stands before a value: layout, made and until.
	headSize = 1 + 8 + 8
)

// Get returns what is known about the keys, in their order; Value is nil where nothing is.
func (c *Cache) Get(ctx context.Context, keys ...Key) []Entry {
	found := make([]Entry, len(keys))
	for i, k := range keys {
		found[i].Key = k
	}
	if _, listening := c.Listening(); !listening || len(keys) == 0 {
		return found
	}
	sealed := make([]*redis.StringCmd, len(keys))
	if !c.do(ctx, "get", func(ctx context.Context) error {
		pipe := c.client.Pipeline()
		for i, k := range keys {
			sealed[i] = pipe.Get(ctx, c.place(k))
		}
		_, err := pipe.Exec(ctx)
		return notNil(err)
	}) {
		return found
	}
	for i, k := range keys {
		raw, err := sealed[i].Bytes()
		if err != nil {
			c.metrics.entry(k.Kind, entryMiss)
			continue
		}
		found[i] = c.open(k, raw)
	}
	return found
}

// notNil returns the error, unless it is that a key does not exist.
func notNil(err error) error {
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// Put keeps entries for all replicas for as long as they hold, in place of those that are there. It
// does nothing in a process that does not hear what is dropped.
func (c *Cache) Put(ctx context.Context, entries ...Entry) {
	since, listening := c.Listening()
	if !listening {
		return
	}
	now := c.now()
	c.do(ctx, "put", func(ctx context.Context) error {
		pipe := c.client.Pipeline()
		for _, e := range entries {
			life := e.Until.Sub(now)
			if life < time.Millisecond || len(e.Value) > maxValue || e.Made.Before(since) || c.Dropped(e.Kind, e.Name) {
				continue
			}
			pipe.Set(ctx, c.place(e.Key), c.seal(e), life)
		}
		if pipe.Len() == 0 {
			return nil
		}
		_, err := pipe.Exec(ctx)
		return err
	})
}

// Claim reports for each key whether this process is the one to find out about it: of several
// replicas that ask at about the same time, one is. It saves work and excludes nobody: when Redis
// does not answer, everybody is told to do it.
func (c *Cache) Claim(ctx context.Context, life time.Duration, keys ...Key) []bool {
	mine := make([]bool, len(keys))
	for i := range mine {
		mine[i] = true
	}
	if _, listening := c.Listening(); !listening || len(keys) == 0 {
		return mine
	}
	claims := make([]*redis.BoolCmd, len(keys))
	if !c.do(ctx, "claim", func(ctx context.Context) error {
		pipe := c.client.Pipeline()
		for i, k := range keys {
			claims[i] = pipe.SetNX(ctx, c.place(k)+":claim", "", life)
		}
		_, err := pipe.Exec(ctx)
		return notNil(err)
	}) {
		return mine
	}
	for i := range claims {
		got, err := claims[i].Result()
		mine[i] = got || err != nil
	}
	return mine
}

// place returns where in Redis an entry is. No part of it is a hash tag of Redis Cluster.
func (c *Cache) place(k Key) string {
	return c.prefix + string(k.Kind) + ":" + c.name(k.Kind, k.Name) + ":" + strconv.FormatUint(k.Generation, 10)
}

// name returns a name as Redis sees it.
func (c *Cache) name(kind Kind, name string) string {
	b := binary.AppendUvarint(make([]byte, 0, 128), uint64(len(c.prefix)))
	b = append(b, c.prefix...)
	b = binary.AppendUvarint(b, uint64(len(kind)))
	b = append(b, kind...)
	sum := c.hash("redis name", append(b, name...))
	return base64.RawURLEncoding.EncodeToString(sum[:18])
}

// sealedFor is where a sealed value belongs. The key is derived for one database and homeserver.
func (c *Cache) sealedFor(what string, kind Kind, row ...string) seal.Place {
	return seal.Place{Database: c.prefix, Table: what, Column: string(kind), Row: row}
}

func (c *Cache) entryPlace(k Key) seal.Place {
	return c.sealedFor("redis entry", k.Kind, k.Name, strconv.FormatUint(k.Generation, 10))
}

func (c *Cache) seal(e Entry) []byte {
	b := make([]byte, 0, headSize+len(e.Value))
	b = append(b, layout)
	b = binary.BigEndian.AppendUint64(b, micros(e.Made))
	b = binary.BigEndian.AppendUint64(b, micros(e.Until))
	return c.key.Seal(append(b, e.Value...), c.entryPlace(e.Key))
}

// open returns an entry, without a value if it is not to be believed.
func (c *Cache) open(k Key, sealed []byte) Entry {
	plain, err := c.key.Open(sealed, c.entryPlace(k))
	if err != nil || len(plain) < headSize || plain[0] != layout {
		c.metrics.entry(k.Kind, entryRefused)
		return Entry{Key: k}
	}
	made, until := fromMicros(plain[1:]), fromMicros(plain[9:])
	if !c.believes(k, made, until) {
		c.metrics.entry(k.Kind, entryStale)
		return Entry{Key: k}
	}
	c.metrics.entry(k.Kind, entryHit)
	return Entry{Key: k, Value: plain[headSize:], Made: made, Until: until}
}

// believes reports whether an entry of ours is neither too old nor from the future nor from before
// this process listened, was not dropped, and that clocks agree.
func (c *Cache) believes(k Key, made, until time.Time) bool {
	now := c.now()
	c.mu.Lock()
	since, skewed := c.hearing.since, c.hearing.skewed
	c.mu.Unlock()
	if since.IsZero() || now.Sub(skewed) < skewMemory {
		return false
	}
	return now.Before(until) && !made.After(now.Add(maxSkew)) && made.After(since.Add(maxSkew)) && !c.Dropped(k.Kind, k.Name)
}

func micros(t time.Time) uint64 { return uint64(max(t.UnixMicro(), 0)) }

func fromMicros(b []byte) time.Time { return time.UnixMicro(int64(binary.BigEndian.Uint64(b))) }
