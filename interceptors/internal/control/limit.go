package control

import (
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/apierr"
)

// maxLimited is the largest number of users for whom attempts are counted.
const maxLimited = 1 << 14

// attempts limits how often a user may try something: burst times at once, then once per
// interval. It counts in memory and for a limited number of users; the least recent are
// dropped first.
type attempts struct {
	burst int
	every rate.Limit

	mu    sync.Mutex
	users *lru.Cache[id.UserID, *rate.Limiter]
}

func newAttempts(burst int, interval time.Duration) (*attempts, error) {
	users, err := lru.New[id.UserID, *rate.Limiter](maxLimited)
	if err != nil {
		return nil, fmt.Errorf("make the cache of attempts: %w", err)
	}
	return &attempts{burst: burst, every: rate.Every(interval), users: users}, nil
}

// Limits are how often a user may try what somebody with a stolen token might guess or break,
// by whatever way.
type Limits struct{ recovers, resets, exports, checkups, pictures *attempts }

// NewLimits returns limits of which nothing was used.
func NewLimits() (*Limits, error) {
	recovers, err := newAttempts(recoverBurst, recoverInterval)
	if err != nil {
		return nil, err
	}
	resets, err := newAttempts(resetBurst, resetInterval)
	if err != nil {
		return nil, err
	}
	exports, err := newAttempts(exportBurst, exportInterval)
	if err != nil {
		return nil, err
	}
	checkups, err := newAttempts(checkupBurst, checkupInterval)
	if err != nil {
		return nil, err
	}
	pictures, err := newAttempts(pictureBurst, pictureInterval)
	if err != nil {
		return nil, err
	}
	return &Limits{recovers, resets, exports, checkups, pictures}, nil
}

// Recover counts an attempt to recover, or returns the error that refuses it.
func (l *Limits) Recover(user id.UserID) error { return l.recovers.take(user) }

// Reset is Recover for a reset.
func (l *Limits) Reset(user id.UserID) error { return l.resets.take(user) }

// Keys is Recover for what is done with all keys.
func (l *Limits) Keys(user id.UserID) error { return l.exports.take(user) }

// Picture is Recover for a picture in which a code is looked for.
func (l *Limits) Picture(user id.UserID) error { return l.pictures.take(user) }

// take counts an attempt, or returns the error that refuses it. A refused attempt does not
// count.
func (a *attempts) take(user id.UserID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	limit, ok := a.users.Get(user)
	if !ok {
		limit = rate.NewLimiter(a.every, a.burst)
		a.users.Add(user, limit)
	}
	now := time.Now()
	mine := limit.ReserveN(now, 1)
	if wait := mine.DelayFrom(now); wait > 0 {
		mine.CancelAt(now)
		return apierr.LimitExceeded(wait.Round(time.Microsecond)) // the limiter calculates in floats
	}
	return nil
}
