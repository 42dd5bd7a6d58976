package control

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/apierr"
)

// Over a day of attempts at random times, as many pass and are refused as a time until
// which all are used up allows, and what a refusal says is when the next one passes.
func TestAttemptsOverADay(t *testing.T) {
	t.Parallel()
	for _, limit := range []struct {
		burst    int
		interval time.Duration
	}{{recoverBurst, recoverInterval}, {resetBurst, resetInterval}, {exportBurst, exportInterval}} {
		synctest.Test(t, func(t *testing.T) {
			a, err := newAttempts(limit.burst, limit.interval)
			if err != nil {
				t.Fatal(err)
			}
			random := rand.New(rand.NewPCG(7, 8))
			var used time.Time
			passed, refused := 0, 0
			for end := time.Now().Add(24 * time.Hour); time.Now().Before(end); time.Sleep(time.Duration(random.Int64N(int64(limit.interval) * 2)).Truncate(time.Second)) {
				for range random.IntN(3) {
					now := time.Now()
					free := used
					if free.Before(now) {
						free = now
					}
					free = free.Add(limit.interval)
					wait := free.Sub(now) - time.Duration(limit.burst)*limit.interval
					err := a.take(alice)
					if wait <= 0 {
						passed++
						used = free
						if err != nil {
							t.Fatalf("%d attempts: refused with %v", passed+refused, err)
						}
						continue
					}
					refused++
					var e *apierr.Error
					if !errors.As(err, &e) || e.Fields["retry_after_ms"] != wait.Milliseconds() {
						t.Fatalf("%d attempts: %v, which says %v, and not to wait %s", passed+refused, err, e, wait)
					}
				}
			}
			if passed < 100 || refused < 3 {
				t.Errorf("%d passed, %d were refused", passed, refused)
			}
		})
	}
}

// For how many users attempts are counted is bounded; the one who tried last is among them.
func TestAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	a, err := newAttempts(1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var last id.UserID
	for i := range maxLimited + 100 {
		last = id.UserID(fmt.Sprintf("@u%d:hs", i))
		if err := a.take(last); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.users.Len(); n != maxLimited {
		t.Errorf("%d users are counted", n)
	}
	if a.take(last) == nil {
		t.Error("the last one was forgotten")
	}
}
