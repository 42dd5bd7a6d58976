package e2ee_test

import (
	"strings"
	"testing"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// Attack 57, for resets: the process ends at each point of a reset, and the request is made again,
// before maintenance comes to the reset's end or after it. There is one new identity in the end,
// with one secret storage and one backup, whose recovery key is the answer.
func TestCrashDuringResetThatIsRepeated(t *testing.T) {
	t.Parallel()
	repeatedReset(t, false)
}

// As before, but maintenance has come to the reset's end.
func TestCrashDuringResetThatIsRepeatedLate(t *testing.T) {
	t.Parallel()
	repeatedReset(t, true)
}

func repeatedReset(t *testing.T, late bool) {
	t.Helper()
	everyCrash(t, 12, func(t *testing.T, c *crash, after int) (bool, accountState) {
		hs := liar.New(t)
		s := hs.Login("alice", "FIRST")
		r := c.rig(t, hs)
		d := r.device(s)
		ready(t, d)
		before := hs.CrossSigningKey(s.UserID, "master")
		auth := e2ee.UserAuth{Password: secret.NewString("password of alice")}
		c.arm(after)
		_, err := d.ResetOnce(t.Context(), "r-1", auth)
		r.stop()
		died := c.disarm()
		if err != nil && !died {
			t.Fatal(err)
		}
		r.start()
		if d = r.device(s); late {
			ready(t, d)
		}
		key, err := d.ResetOnce(t.Context(), "r-1", auth)
		if err != nil {
			t.Fatal(err)
		}
		now := hs.CrossSigningKey(s.UserID, "master")
		if begun, err := d.ResetBegun(t.Context(), "r-1"); !begun || err != nil || now == before {
			t.Errorf("begun %v, %v; the identity was replaced: %v", begun, err, now != before)
		}
		ready(t, d)
		if alarm := codes(t, d); strings.Contains(alarm, "own_identity_changed") {
			t.Errorf("warnings: %s", alarm)
		}
		return died, inspect(t, hs, s, key)
	})
}

// Several requests for a reset that is under way are one reset, of which each learns; one that comes
// when it is done is another, and so is each that has no name.
func TestWhichResetsAreTheSame(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	auth := e2ee.UserAuth{Password: secret.NewString("password of alice")}
	reset := func(request string, want int) {
		t.Helper()
		if _, err := alice.dev.ResetOnce(t.Context(), request, auth); err != nil {
			t.Fatal(err)
		}
		if got := masters(t, hs, alice.UserID); got != want {
			t.Errorf("%q: %d identities, want %d", request, got, want)
		}
	}
	for _, request := range []string{"r-1", "r-2"} {
		if _, err := alice.dev.ResetOnce(t.Context(), request, e2ee.UserAuth{Password: secret.NewString("wrong")}); err == nil {
			t.Fatal("a wrong password resets")
		}
	}
	first := masters(t, hs, alice.UserID) // what was refused counts
	reset("r-3", first)
	for _, request := range []string{"r-1", "r-2", "r-3"} {
		reset(request, first)
	}
	reset("r-4", first+1)
	reset("", first+2)
	reset("", first+3)
	reset("r-1", first+3)
	if begun, err := alice.dev.ResetBegun(t.Context(), ""); begun || err != nil {
		t.Errorf("a reset for nobody: %v, %v", begun, err)
	}
}
