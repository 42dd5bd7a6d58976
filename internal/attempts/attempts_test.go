package attempts

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// Over a day of attempts at random times, as many pass and are refused as a time until
// which all are used up allows, and what a refusal says is when the next one passes.
func TestAttemptsOverADay(t *testing.T) {
	t.Parallel()
	for _, limit := range []struct {
		burst    int
		interval time.Duration
	}{{5, time.Minute}, {5, 5 * time.Minute}, {4, time.Minute}} {
		synctest.Test(t, func(t *testing.T) {
			a, err := New(nil, "attempts", limit.burst, limit.interval)
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
					said := a.Take(t.Context(), "alice", now).Round(time.Microsecond)
					if wait <= 0 {
						passed++
						used = free
						if said != 0 {
							t.Fatalf("%d attempts: refused for %v", passed+refused, said)
						}
						continue
					}
					refused++
					if said != wait {
						t.Fatalf("%d attempts: told to wait %v, and not %v", passed+refused, said, wait)
					}
				}
			}
			if passed < 100 || refused < 3 {
				t.Errorf("%d passed, %d were refused", passed, refused)
			}
		})
	}
}

// For how many names attempts are counted is bounded; the one that was tried last is among them.
func TestAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	a, err := New(nil, "attempts", 1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	last, now := "", time.Now()
	for i := range maxNames + 100 {
		last = fmt.Sprintf("user %d", i)
		if wait := a.Take(t.Context(), last, now); wait > 0 {
			t.Fatal(wait)
		}
	}
	if n := a.names.Len(); n != maxNames {
		t.Errorf("%d names are counted", n)
	}
	if a.Take(t.Context(), last, now) == 0 {
		t.Error("the last one was forgotten")
	}
}
