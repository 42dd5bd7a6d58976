package rediscache

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// maxNames is how many names are in one message.
const maxNames = 1000

// message is what replicas tell each other. It is sealed.
type message struct {
	From string `json:"from"`
	Kind Kind   `json:"kind,omitempty"`
	// Dropped are names that no longer hold. They are bytes, since JSON changes text that is
	// not UTF-8.
	Dropped [][]byte `json:"dropped,omitempty"`
	// All drops every name of every kind.
	All  bool   `json:"all,omitempty"`
	Said []byte `json:"said,omitempty"`
	// Beat is counted up; only who sent it reads the number.
	Beat int64 `json:"beat,omitempty"`
	// At is when it was said, in microseconds, by the clock of who said it.
	At int64 `json:"at"`
}

// Drop drops names in all replicas: entries of generation zero are deleted, and whatever was or
// will be put for the names is not believed for some minutes by any process that hears this. When
// Redis cannot be told now, it is told later, and told is false. The caller drops its own local
// copies itself.
func (c *Cache) Drop(ctx context.Context, kind Kind, names ...string) (told bool) {
	if c == nil || len(names) == 0 {
		return true
	}
	c.mu.Lock()
	c.hearing.drop(kind, names, c.now())
	c.mu.Unlock()
	// Whoever asked for it may be gone: it must be told all the same.
	ctx = context.WithoutCancel(ctx)
	told = true
	for part := range slices.Chunk(names, maxNames) {
		if !c.tellDropped(ctx, kind, part) {
			c.addUntold(kind, part)
			told = false
		}
	}
	return told
}

// tellDropped reports whether the other replicas were told.
func (c *Cache) tellDropped(ctx context.Context, kind Kind, names []string) bool {
	told := message{Kind: kind, Dropped: make([][]byte, len(names))}
	for i, name := range names {
		told.Dropped[i] = []byte(name)
	}
	return c.do(ctx, "drop", func(ctx context.Context) error {
		sealed, err := c.sealMessage(told)
		if err != nil {
			return err
		}
		pipe := c.client.Pipeline()
		for _, name := range names {
			pipe.Del(ctx, c.place(Key{Kind: kind, Name: name}))
		}
		pipe.Publish(ctx, c.channel(), sealed)
		_, err = pipe.Exec(ctx)
		return err
	})
}

// Publish tells the other replicas something about a kind. It may get lost, and is no more to be
// relied on than anything in Redis.
func (c *Cache) Publish(ctx context.Context, kind Kind, said []byte) {
	if c == nil {
		return
	}
	c.publish(ctx, "publish", message{Kind: kind, Said: said})
}

func (c *Cache) publish(ctx context.Context, call string, m message) bool {
	return c.do(ctx, call, func(ctx context.Context) error {
		sealed, err := c.sealMessage(m)
		if err != nil {
			return err
		}
		return c.client.Publish(ctx, c.channel(), sealed).Err()
	})
}

// tellUntold tells what could not be told before.
func (c *Cache) tellUntold(ctx context.Context) {
	u := c.takeUntold()
	if u.all && !c.publish(ctx, "drop", message{All: true}) {
		c.mu.Lock()
		c.untold = untold{all: true}
		c.mu.Unlock()
		return
	}
	for kind, names := range u.names {
		for part := range slices.Chunk(names, maxNames) {
			if !c.tellDropped(ctx, kind, part) {
				c.addUntold(kind, part)
			}
		}
	}
}

func (c *Cache) channel() string { return c.prefix + "told" }

func (c *Cache) sealMessage(m message) ([]byte, error) {
	m.From, m.At = c.self, c.now().UnixMicro()
	plain, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a message to the other replicas: %w", err)
	}
	return c.key.Seal(plain, c.sealedFor("redis message", "")), nil
}

// heard takes in what came over the channel. What is not sealed by a replica is dropped.
func (c *Cache) heard(sealed string) {
	plain, err := c.key.Open([]byte(sealed), c.sealedFor("redis message", ""))
	var m message
	if err != nil || json.Unmarshal(plain, &m) != nil {
		c.metrics.refusedMessages.Inc()
		return
	}
	if m.From == c.self {
		c.heardBeat(m.Beat)
		return
	}
	c.compareClocks(time.UnixMicro(m.At))
	switch l := c.listener(m.Kind); {
	case m.All:
		c.everythingDropped()
	case len(m.Dropped) > 0:
		names := make([]string, len(m.Dropped))
		for i, name := range m.Dropped {
			names[i] = string(name)
		}
		c.mu.Lock()
		c.hearing.drop(m.Kind, names, c.now())
		c.mu.Unlock()
		if l.Dropped != nil {
			l.Dropped(names)
		}
	case m.Said != nil && l.Said != nil:
		l.Said(m.Said)
	}
}

// sendBeat sends this process something over Redis.
func (c *Cache) sendBeat(ctx context.Context) bool {
	c.mu.Lock()
	c.hearing.sent++
	n := c.hearing.sent
	c.mu.Unlock()
	return c.publish(ctx, "beat", message{Beat: n})
}

func (c *Cache) heardBeat(beat int64) {
	c.mu.Lock()
	fresh := beat > c.hearing.beat && beat <= c.hearing.sent
	if fresh {
		c.hearing.beat, c.hearing.beatAt = beat, c.now()
	}
	since, begins := c.hearing.subscribed, c.hearing.since.IsZero() && !c.hearing.subscribed.IsZero()
	c.mu.Unlock()
	if fresh && begins {
		c.startHearing(since)
	}
}
