package e2ee_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// calm waits until what was noted while something was under way is noted to be over.
func calm(t *testing.T, d *e2ee.Device) string {
	t.Helper()
	await(t, "warnings stay", func() bool { return codes(t, d) == "" })
	return codes(t, d)
}

// codes returns the warnings that stand, in order.
func codes(t *testing.T, d *e2ee.Device) string {
	t.Helper()
	var out []string
	for code := range warningCodes(t, d) {
		out = append(out, code)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// says sends a text to a room of its own, so that there is a room key to back up.
func says(t *testing.T, hs *liar.Server, d *e2ee.Device, s liar.Session, text string) {
	t.Helper()
	p := &person{t: t, hs: hs, Session: s, dev: d}
	p.send(p.newRoom(), text)
}

// Wherever the process ends while it sets a fresh account up, it comes to the same end
// when it is started again: one identity, one secret storage, one backup that holds the
// room keys, the device signed, no warning; and a recovery key that the user may have
// been given before opens all of it (requirement 12.13).
func TestCrashDuringBootstrap(t *testing.T) {
	t.Parallel()
	type outcome struct {
		accountState
		warnings string
	}
	everyCrash(t, 20, func(t *testing.T, c *crash, after int) (bool, outcome) {
		hs := liar.New(t)
		s := hs.Login("alice", "FIRST")
		r := c.rig(t, hs)
		c.arm(after)
		var given secret.String
		if d, err := r.eng.Device(t.Context(), id.UserID(s.UserID), "FIRST", secret.NewString(s.Token)); err == nil {
			d.PublishWithin(0)
			c.over(t, func() bool {
				st, err := d.Status(t.Context())
				return err == nil && inOrder(st)
			})
			if key, err := d.RecoveryKey(t.Context()); err == nil {
				given = key
			}
		}
		r.stop()
		died := c.disarm()
		r.start()
		d := r.device(s)
		ready(t, d)
		says(t, hs, d, s, "hello")
		backedUp(t, hs, s.UserID, 1)
		key := recoveryKey(t, d)
		if !given.IsZero() && given.Reveal() != key.Reveal() {
			t.Error("the user was given another recovery key before")
		}
		return died, outcome{inspect(t, hs, s, key), calm(t, d)}
	})
}

// Wherever the process ends while a device recovers, the recovery can be repeated, and it
// has changed nothing of the account but the device's signature.
func TestCrashDuringRecover(t *testing.T) {
	t.Parallel()
	type outcome struct {
		accountState
		secrets  bool // are the first device's
		history  int
		warnings string
	}
	everyCrash(t, 6, func(t *testing.T, c *crash, after int) (bool, outcome) {
		hs := liar.New(t)
		first := newPerson(t, hs, "alice", "FIRST")
		says(t, hs, first.dev, first.Session, "to be restored")
		backedUp(t, hs, first.UserID, 1)
		key := recoveryKey(t, first.dev)
		theirs, err := first.dev.Secrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		first.rig.stop()
		saved := func() (all string) {
			for _, name := range append([]string{"m.secret_storage.default_key"}, secretNames...) {
				all += string(accountData(t, hs, first.Session, name))
			}
			return all
		}
		before := saved()
		s := hs.Login("alice", "SECOND")
		r := c.rig(t, hs)
		d := r.device(s)
		settle(t, d)
		c.arm(after)
		err = d.Recover(t.Context(), e2ee.Recovery{Key: key, Restore: true})
		restored := func() bool {
			st, err := d.Status(t.Context())
			return err == nil && st.Backup.Restore != nil && st.Backup.Restore.State == "done"
		}
		if err == nil {
			c.over(t, restored)
		}
		r.stop()
		died := c.disarm()
		if err != nil && !died {
			t.Fatal(err)
		}
		r.start()
		d = r.device(s)
		settle(t, d)
		if err := d.Recover(t.Context(), e2ee.Recovery{Key: key, Restore: true}); err != nil {
			t.Fatalf("the recovery cannot be repeated: %v", err)
		}
		ready(t, d)
		await(t, "the history is not restored", restored)
		if saved() != before {
			t.Error("what was saved of the account was changed")
		}
		mine, err := d.Secrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		same := true
		for _, name := range secretNames {
			same = same && mine[name] == theirs[name] && mine[name] != ""
		}
		kept, err := d.InboundSessions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return died, outcome{inspect(t, hs, s, key), same, len(kept), calm(t, d)}
	})
}

// Wherever the process ends during a reset, the account has its old identity whole, with
// the recovery key that the user has, or its new one, to whose end maintenance comes by
// itself. There is no alarm about the user's own doing, and a reset afterwards comes to
// the same end as one that was not interrupted.
func TestCrashDuringReset(t *testing.T) {
	t.Parallel()
	type outcome struct {
		accountState
		pending  bool
		warnings string
	}
	everyCrash(t, 15, func(t *testing.T, c *crash, after int) (bool, outcome) {
		hs := liar.New(t)
		s := hs.Login("alice", "FIRST")
		r := c.rig(t, hs)
		d := r.device(s)
		ready(t, d)
		says(t, hs, d, s, "before")
		backedUp(t, hs, s.UserID, 1)
		before, given := hs.CrossSigningKey(s.UserID, "master"), recoveryKey(t, d)
		auth := e2ee.UserAuth{Password: secret.NewString("password of alice")}
		reset := func() error {
			key, err := d.Reset(t.Context(), auth)
			if err == nil {
				given = key
			}
			return err
		}
		c.arm(after)
		err := reset()
		if err == nil {
			c.over(t, func() bool { keys, version := hs.BackedUp(s.UserID); return keys == 1 && version == "2" })
		}
		r.stop()
		died := c.disarm()
		if err != nil && !died {
			t.Fatal(err)
		}
		r.start()
		d = r.device(s)
		ready(t, d)
		backedUp(t, hs, s.UserID, 1)
		if now := hs.CrossSigningKey(s.UserID, "master"); now != before {
			given = recoveryKey(t, d) // there was no answer that held it
		}
		whole := inspect(t, hs, s, given)
		if alarm := codes(t, d); !whole.confirmed || !whole.enabled || whole.keys != 1 || strings.Contains(alarm, "own_identity_changed") {
			t.Errorf("after the restart: %+v, warnings: %s", whole, alarm)
		}
		calm(t, d)
		if hs.CrossSigningKey(s.UserID, "master") == before {
			if err := reset(); err != nil {
				t.Fatalf("another reset: %v", err)
			}
			backedUp(t, hs, s.UserID, 1)
		}
		secrets, err := d.Secrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return died, outcome{inspect(t, hs, s, given), secrets["reset"] != "", calm(t, d)}
	})
}

// Wherever the process ends while identities are acknowledged and verification is
// withdrawn, and exceptions are made for devices, that can be repeated; the warning goes
// with the change, not before and not after it.
func TestCrashDuringAcknowledge(t *testing.T) {
	t.Parallel()
	everyCrash(t, 3, func(t *testing.T, c *crash, after int) (bool, string) {
		hs := liar.New(t)
		bob, _ := confirmedPuppet(t, hs, "bob", "BOB")
		carol, _ := confirmedPuppet(t, hs, "carol", "CAROL")
		alice := &person{t: t, hs: hs, rig: c.rig(t, hs), Session: hs.Login("alice", "FIRST")}
		alice.dev = alice.rig.device(alice.Session)
		ready(t, alice.dev)
		room := hs.CreateRoom(true, alice.UserID, bob.UserID, carol.UserID)
		alice.send(room, "hello")
		keysOf := func(p *puppet) (n int) {
			p.listen()
			for _, ev := range p.opened {
				if ev.Type == "m.room_key" {
					n++
				}
			}
			return n
		}
		had := map[*puppet]int{bob: keysOf(bob), carol: keysOf(carol)}
		if err := alice.dev.Verify(t.Context(), id.UserID(carol.UserID)); err != nil {
			t.Fatal(err)
		}
		for _, p := range []*puppet{bob, carol} {
			newIdentity(t, hs, p.Session).confirm(p)
		}
		await(t, "no warnings", func() bool { return codes(t, alice.dev) == "identity_changed verification_lost" })
		do := func() error {
			if err := alice.dev.Acknowledge(t.Context(), id.UserID(bob.UserID), id.Ed25519(hs.CrossSigningKey(bob.UserID, "master"))); err != nil {
				return err
			}
			if err := alice.dev.SetOverride(t.Context(), id.UserID(bob.UserID), "BOB", new(bool)); err != nil {
				return err
			}
			err := alice.dev.WithdrawVerification(t.Context(), id.UserID(carol.UserID))
			if errorIs(err, e2ee.ErrNotVerified) {
				return nil // it was done before
			}
			return err
		}
		c.arm(after)
		err := do()
		alice.rig.stop()
		died := c.disarm()
		if err != nil && !died {
			t.Fatal(err)
		}
		alice.rig.start()
		alice.dev = alice.rig.device(alice.Session)
		for user, code := range map[*puppet]string{bob: "identity_changed", carol: "verification_lost"} {
			trust, err := alice.dev.User(t.Context(), id.UserID(user.UserID))
			if err != nil {
				t.Fatal(err)
			}
			if warned := warningCodes(t, alice.dev)[code].ID != ""; warned != (trust.State != "pinned") {
				t.Errorf("%s is %s, warned: %v", user.UserID, trust.State, warned)
			}
		}
		if err := do(); err != nil {
			t.Errorf("it cannot be repeated: %v", err)
		}
		alice.send(room, "after")
		outcome := []string{codes(t, alice.dev)}
		for _, p := range []*puppet{bob, carol} {
			trust, err := alice.dev.User(t.Context(), id.UserID(p.UserID))
			if err != nil {
				t.Fatal(err)
			}
			outcome = append(outcome, fmt.Sprintf("%s is %s, has %d more keys", p.DeviceID, trust.State, keysOf(p)-had[p]))
		}
		return died, strings.Join(outcome, "; ")
	})
}
