package proxy

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
)

// Whoever leaves is let go at once, also the one for whom the homeserver is asked; the
// look-up goes on, is remembered, and shutting down waits for it.
func TestIdentityLetsGoWhoLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked, answered := 0, false
		c := testIdentities(t, func(context.Context, credentials) (interceptors.Identity, error) {
			asked++
			time.Sleep(time.Second) // in the bubble's time
			answered = true
			return alice(), nil
		})
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		start := time.Now()
		if who, err := c.owner(impatient, credentials{token: "alice"}); !errors.Is(err, context.DeadlineExceeded) || who.UserID != "" {
			t.Errorf("the one that leaves got %v, %v", who, err)
		}
		if took := time.Since(start); took != time.Millisecond {
			t.Errorf("it was kept for %s", took)
		}
		c.wait()
		if !answered {
			t.Error("the look-up was not waited for")
		}
		if who, err := c.owner(t.Context(), credentials{token: "alice"}); err != nil || who.UserID != "@alice:hs" || asked != 1 {
			t.Errorf("the next one got %v, %v, asked %d times", who, err, asked)
		}
	})
}

// A bug in a look-up is an error for each of those who wait, not the end of the process.
// Its type and place are told, its value is not: it could hold a token.
func TestIdentityPanicIsAnErrorForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := testIdentities(t, func(_ context.Context, cred credentials) (interceptors.Identity, error) {
			asked++
			time.Sleep(time.Second) // in the bubble's time
			panic("a bug with " + cred.token)
		})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				who, err := c.owner(t.Context(), credentials{token: "syt_alice"})
				if !errors.Is(err, errNoWhoami) || who.UserID != "" {
					t.Errorf("let in %v, %v", who, err)
					return
				}
				if s := err.Error(); !strings.Contains(s, "a string") || !strings.Contains(s, "flights_test.go") || strings.Contains(s, "syt_alice") {
					t.Errorf("told: %s", s)
				}
			})
		}
		wg.Wait()
		if asked != 1 || len(c.lookingUp) != 0 {
			t.Errorf("asked %d times, %d in flight", asked, len(c.lookingUp))
		}
	})
}

// What asserts two different identities never shares a look-up, however their parts
// divide (attack 32).
func TestIdentityFlightsOfDifferentSubjects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := testIdentities(t, func(_ context.Context, cred credentials) (interceptors.Identity, error) {
			time.Sleep(time.Second) // in the bubble's time
			return interceptors.Identity{UserID: id.UserID(cred.user), DeviceID: id.DeviceID(cred.device)}, nil
		})
		var wg sync.WaitGroup
		for _, cred := range []credentials{
			{token: "as"}, {token: "as", user: "@ab:hs", device: "C"}, {token: "as", user: "@ab:hsC"}, {token: "as", user: "@ab:h", device: "sC"},
			{token: "as", device: "@ab:hsC"}, {token: "as", user: "1", device: ":"}, {token: "as", user: "1:"},
		} {
			wg.Go(func() {
				if who, err := c.owner(t.Context(), cred); err != nil || string(who.UserID) != cred.user || string(who.DeviceID) != cred.device {
					t.Errorf("%s/%s got %s/%s, %v", cred.user, cred.device, who.UserID, who.DeviceID, err)
				}
			})
		}
		wg.Wait()
	})
}
