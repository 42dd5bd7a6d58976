package rediscache

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"e2ee-proxy/internal/seal"
)

// maxSkew is how far the clocks of two replicas may differ.
const maxSkew = 2 * time.Second

// Kind says what entries are about, such as tokens. It is readable in Redis.
type Kind string

// Key says what an entry is about.
type Key struct {
	Kind Kind
	// Name is only readable to whoever knows the database's key.
	Name string
	// Generation tells apart what was true of the same name at different times. An entry of an
	// older generation never takes the place of one of a newer. Zero for what has none.
	Generation uint64
}

// Entry is what is known about a key.
type Entry struct {
	Key
	// Value is nil when nothing is known.
	Value []byte
	// Made is when the value held: the time before the homeserver was asked.
	Made time.Time
	// Until is when the value is too old.
	Until time.Time
}

// Listener is told what the other replicas say. Its functions must not block.
type Listener struct {
	// Dropped is called with names that a replica dropped. Local copies must go, and look-ups
	// under way must not be kept. It is not called for drops of this process.
	Dropped func(names []string)
	// Said is called with what a replica published, not for what this process did. May be nil.
	Said func(message []byte)
	// Interrupted is called when messages may have been missed. Everything local that relies on
	// being told must go, and look-ups under way must not be kept.
	Interrupted func()
}

// Options make a [Cache].
type Options struct {
	Address Address
	// Timeout bounds each call.
	Timeout time.Duration
	// Hash is the database's keyed hash, see store.DB.Hash. All keys are derived from it.
	Hash func(purpose string, data []byte) [32]byte
	// Homeserver is whom the entries are about. Those about another are not found.
	Homeserver string
	Log        zerolog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Cache is the replicas' common cache. A nil one finds nothing.
type Cache struct {
	client  redis.UniversalClient
	address Address
	timeout time.Duration
	hash    func(purpose string, data []byte) [32]byte
	key     *seal.Key
	prefix  string
	// self tells this process's messages from those of others.
	self    string
	log     zerolog.Logger
	now     func() time.Time
	breaker breaker
	metrics *Metrics

	mu        sync.Mutex
	listeners map[Kind]Listener
	hearing   hearing
	untold    untold
}

// New makes a cache. It does not connect; see [Cache.Check] and [Cache.Run].
func New(o Options) (*Cache, error) {
	client, err := o.Address.client(o.Timeout)
	if err != nil {
		return nil, err
	}
	about := []byte(o.Homeserver)
	raw, name := o.Hash("redis entries", about), o.Hash("redis database", about)
	key, err := seal.NewKey(seal.ID(name[seal.IDSize:]), raw[:])
	if err != nil {
		return nil, fmt.Errorf("make the key for Redis: %w", err)
	}
	self := seal.NewID()
	m := o.Metrics
	if m == nil {
		if m, err = NewMetrics(nil); err != nil {
			return nil, err
		}
	}
	return &Cache{
		client: client, address: o.Address, timeout: o.Timeout, hash: o.Hash, key: key, log: o.Log, now: time.Now, metrics: m,
		prefix: "e2ee-proxy:" + hex.EncodeToString(name[:seal.IDSize]) + ":", self: self.String(),
		listeners: make(map[Kind]Listener),
	}, nil
}

// Listen sets who is told about a kind. It must be called before [Cache.Run].
func (c *Cache) Listen(kind Kind, l Listener) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners[kind] = l
}

// Listening reports whether what other replicas say is heard, and since when without
// interruption.
func (c *Cache) Listening() (since time.Time, ok bool) {
	if c == nil {
		return time.Time{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hearing.since, !c.hearing.since.IsZero()
}

// Close closes the connections, after [Cache.Run] has returned.
func (c *Cache) Close() error {
	if c == nil {
		return nil
	}
	if err := c.client.Close(); err != nil {
		return fmt.Errorf("close the connections to Redis: %w", err)
	}
	return nil
}

// do makes a call with the timeout, unless Redis does not answer at the moment. It reports
// whether the call succeeded.
func (c *Cache) do(ctx context.Context, call string, f func(context.Context) error) bool {
	if !c.breaker.allows() {
		c.metrics.call(call, resultSkipped)
		return false
	}
	err := c.bounded(ctx, f)
	switch {
	case err == nil:
		c.breaker.succeeded()
		c.metrics.call(call, resultOK)
		return true
	case ctx.Err() != nil: // the caller gave up, which says nothing about Redis
		c.metrics.call(call, resultCancelled)
	default:
		c.metrics.call(call, resultFailed)
		if c.breaker.failed() {
			c.log.Warn().Err(safe(err)).Msg("Redis does not answer: going on without it until it does")
		}
	}
	return false
}

// bounded makes a call with the timeout. The client's code takes what the server says apart, so
// a panic in it is the server's doing, and an error.
func (c *Cache) bounded(ctx context.Context, f func(context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: panic with a %T", errNotRedis, v)
		}
	}()
	return f(ctx)
}
