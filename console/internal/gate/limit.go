package gate

import (
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"e2ee-proxy/interceptors/apierr"
)

// How often somebody may try to sign in: so many times at once, then once per interval. A network
// may have many people behind it; one user is guessed at from many networks.
const (
	networkBurst    = 20
	networkInterval = 5 * time.Second
	userBurst       = 5
	userInterval    = time.Minute

	// maxLimited is the largest number of networks, and of users, that are counted; the least
	// recent are dropped first.
	maxLimited = 1 << 14
)

// attempts limits how often something may be tried under one name: so many times at once, then
// once per interval.
type attempts struct {
	burst int
	every rate.Limit

	mu    sync.Mutex
	names *lru.Cache[string, *rate.Limiter]
}

// newAttempts makes a limit.
func newAttempts(burst int, interval time.Duration) (*attempts, error) {
	names, err := lru.New[string, *rate.Limiter](maxLimited)
	if err != nil {
		return nil, fmt.Errorf("make the cache of attempts: %w", err)
	}
	return &attempts{burst: burst, every: rate.Every(interval), names: names}, nil
}

// take counts an attempt, or returns the error that refuses it, which does not count.
func (a *attempts) take(name string, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	limit, ok := a.names.Get(name)
	if !ok {
		limit = rate.NewLimiter(a.every, a.burst)
		a.names.Add(name, limit)
	}
	mine := limit.ReserveN(now, 1)
	if wait := mine.DelayFrom(now); wait > 0 {
		mine.CancelAt(now)
		e := apierr.LimitExceeded(wait.Round(time.Second))
		e.Text, e.Hint = "This was tried too often.", fmt.Sprintf("Wait %s, then try again.", seconds(wait))
		return e
	}
	return nil
}

// seconds writes a time to wait for a person.
func seconds(d time.Duration) string {
	n := int(d.Round(time.Second).Seconds())
	if n <= 1 {
		return "a second"
	}
	return fmt.Sprintf("%d seconds", n)
}
