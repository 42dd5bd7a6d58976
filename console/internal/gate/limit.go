package gate

import (
	"context"
	"fmt"
	"time"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/attempts"
)

// How often somebody may try to sign in: so many times at once, then once per interval. A network
// may have many people behind it; one user is guessed at from many networks.
const (
	networkBurst    = 20
	networkInterval = 5 * time.Second
	userBurst       = 5
	userInterval    = time.Minute
)

// take counts an attempt, or returns the error that refuses it, which does not count.
func take(ctx context.Context, limit *attempts.Limit, name string, now time.Time) error {
	wait := limit.Take(ctx, name, now)
	if wait <= 0 {
		return nil
	}
	e := apierr.LimitExceeded(wait.Round(time.Second))
	e.Text, e.Hint = "This was tried too often.", fmt.Sprintf("Wait %s, then try again.", seconds(wait))
	return e
}

// seconds writes a time to wait for a person.
func seconds(d time.Duration) string {
	n := int(d.Round(time.Second).Seconds())
	if n <= 1 {
		return "a second"
	}
	return fmt.Sprintf("%d seconds", n)
}
