package interceptors

import (
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"
)

// maxLimited bounds the users for whom attempts are counted.
const maxLimited = 1 << 14

// attempts limits how often a user may try something: burst times at once, then once per
// interval. It counts in memory and for a bounded number of users, of whom the ones who
// tried least recently are forgotten first.
type attempts struct {
	burst    int
	interval time.Duration

	mu    sync.Mutex
	users *lru.Cache[id.UserID, time.Time]
}

func newAttempts(burst int, interval time.Duration) (*attempts, error) {
	users, err := lru.New[id.UserID, time.Time](maxLimited)
	if err != nil {
		return nil, fmt.Errorf("make the cache of attempts: %w", err)
	}
	return &attempts{burst: burst, interval: interval, users: users}, nil
}

// take counts an attempt, or gives the error that refuses it. For each user there is a
// time until which all attempts are used up; each moves it by one interval.
func (a *attempts) take(user id.UserID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	used, ok := a.users.Get(user)
	if !ok || used.Before(now) {
		used = now
	}
	used = used.Add(a.interval)
	if wait := used.Sub(now) - time.Duration(a.burst)*a.interval; wait > 0 {
		return LimitExceeded(wait)
	}
	a.users.Add(user, used)
	return nil
}
