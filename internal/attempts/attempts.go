package attempts

import (
	"context"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"e2ee-proxy/internal/rediscache"
)

// maxNames is the largest number of names that are counted; the least recent are dropped first.
const maxNames = 1 << 14

// Limit is how often something may be tried under each name.
type Limit struct {
	kind     rediscache.Kind
	burst    int
	interval time.Duration
	shared   *rediscache.Cache

	mu    sync.Mutex
	names *lru.Cache[string, *rate.Limiter]
}

// New makes a limit: burst times at once, then once per interval. Replicas count together what has
// the same kind; shared is nil for a process alone.
func New(shared *rediscache.Cache, kind rediscache.Kind, burst int, interval time.Duration) (*Limit, error) {
	names, err := lru.New[string, *rate.Limiter](maxNames)
	if err != nil {
		return nil, fmt.Errorf("make the cache of attempts: %w", err)
	}
	return &Limit{kind: kind, burst: burst, interval: interval, shared: shared, names: names}, nil
}

// Take counts an attempt at a time. Where there were too many it counts nothing, and returns how long
// to wait; zero lets the attempt pass.
func (l *Limit) Take(ctx context.Context, name string, now time.Time) (wait time.Duration) {
	mine, wait := l.reserve(name, now)
	if wait > 0 {
		return wait
	}
	if wait = l.shared.TakePlace(ctx, l.kind, name, l.burst, l.interval); wait > 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		mine.CancelAt(now)
	}
	return wait
}

// reserve counts an attempt in this process.
func (l *Limit) reserve(name string, now time.Time) (*rate.Reservation, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit, ok := l.names.Get(name)
	if !ok {
		limit = rate.NewLimiter(rate.Every(l.interval), l.burst)
		l.names.Add(name, limit)
	}
	mine := limit.ReserveN(now, 1)
	wait := mine.DelayFrom(now)
	if wait > 0 {
		mine.CancelAt(now)
	}
	return mine, wait
}
