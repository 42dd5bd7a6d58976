package trustcache

import (
	"context"
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix/id"
)

// scene is alice's account and what becomes of bob's identity in it.
type scene struct {
	*tracking
	me, me2       person // alice's identity, and another that takes its place
	p, p2         person // bob's, likewise
	shown         person // which of bob's the homeserver shows
	ownIsVerified bool
}

func newScene(t *testing.T, automatic bool) *scene {
	t.Helper()
	s := &scene{
		tracking: track(t, newServer(), newMemory(), func(o *Options) { o.AcknowledgeUnverified = func() bool { return automatic } }),
		me:       newPerson(alice, "1"), me2: newPerson(alice, "2"), p: newPerson(bob, "1"), p2: newPerson(bob, "2"),
	}
	s.srv.publish(s.me)
	s.lookup(alice)
	return s
}

// show has the homeserver show an identity of bob's, signed by an identity of alice's or
// by nobody.
func (s *scene) show(p person, by *person) {
	s.t.Helper()
	s.srv.publish(p, p.signedDevice("PHONE"))
	if by != nil {
		s.srv.edit(func(r *QueryResult) { r.MasterKeys[bob] = p.masterSignedBy(*by) })
	}
	s.shown = p
	s.update(bob)
}

func (s *scene) verifyOwn() {
	s.t.Helper()
	s.verify(s.me)
	s.ownIsVerified = true
}

// reach brings bob into a state.
func (s *scene) reach(state PinState) {
	s.t.Helper()
	switch state {
	case PinNone:
		s.lookup(bob)
	case PinPinned:
		s.show(s.p, nil)
	case PinChanged:
		s.show(s.p, nil)
		s.show(s.p2, nil)
	case PinVerified:
		s.verifyOwn()
		s.show(s.p, &s.me)
	case PinVerificationLost:
		s.verifyOwn()
		s.show(s.p, &s.me)
		s.show(s.p2, nil)
	}
	if got := s.lookup(bob).State(); got != state {
		s.t.Fatalf("%v cannot be reached: %v", state, got)
	}
}

// From every state by every event, through the tracker and real signatures. The columns are
// the state before, in the order of [PinState]; a cell is the state after. Where the
// reference has another, "reference" gives its row and why; "-" cannot happen. What
// acknowledging and withdrawing return is in TestPinTransitions.
func TestPinTable(t *testing.T) {
	t.Parallel()
	const (
		no, pinned, changed, verified, lost = "none", "pinned", "changed", "verified", "verification_lost"
		// The reference looks at what the homeserver shows now.
		kept = "a signature of ours does not go away because a homeserver leaves it out"
		// A bot that nobody watches may accept changes of users it never verified.
		watched = "only an account that is set so accepts by itself, and never what was verified"
	)
	ctx := context.Background()
	states := []PinState{PinNone, PinPinned, PinChanged, PinVerified, PinVerificationLost}
	type row = [5]string
	for _, tc := range []struct {
		event     string
		happens   func(s *scene)
		automatic bool
		want      row
		reference row
		why       string
	}{
		{event: "the same again", happens: func(s *scene) { s.update(bob) }, want: row{no, pinned, changed, verified, lost}},
		{event: "first identity", happens: func(s *scene) { s.show(s.p, nil) }, want: row{pinned, pinned, pinned, verified, lost},
			reference: row{pinned, pinned, pinned, lost, lost}, why: kept},
		{event: "first identity, signed by our verified one", happens: func(s *scene) { s.verifyOwn(); s.show(s.p, &s.me) }, want: row{verified, verified, verified, verified, verified}},
		{event: "another self-signing key", happens: func(s *scene) {
			next := s.shown
			if next.user == "" {
				next = s.p
			}
			next.selfSign = newSigner("another self-signing key")
			s.show(next, nil)
		}, want: row{pinned, pinned, changed, verified, lost}, reference: row{pinned, pinned, changed, lost, lost}, why: kept},
		{event: "another master key, not signed by us", happens: func(s *scene) { s.show(newPerson(bob, "3"), nil) }, want: row{pinned, changed, changed, lost, lost}},
		{event: "another master key, the same self-signing key (12.14)", happens: func(s *scene) {
			moved := s.p
			moved.master = newSigner("another master key")
			s.show(moved, nil)
		}, want: row{pinned, changed, changed, lost, lost}},
		{event: "another master key, signed by our verified one", happens: func(s *scene) { s.verifyOwn(); s.show(newPerson(bob, "3"), &s.me) }, want: row{verified, verified, verified, verified, verified}},
		{event: "another master key, signed by an own identity that is not verified", happens: func(s *scene) {
			p := newPerson(bob, "3")
			s.show(p, &s.me2)
		}, want: row{pinned, changed, changed, lost, lost}},
		{event: "our signature of the current one appears", happens: func(s *scene) {
			s.verifyOwn()
			if s.shown.user == "" {
				s.shown = s.p
			}
			s.show(s.shown, &s.me)
		}, want: row{verified, verified, verified, verified, verified}},
		{event: "our identity becomes verified and had signed the current one", happens: func(s *scene) {
			if s.ownIsVerified || s.shown.user == "" {
				s.verifyOwn()
				return
			}
			s.show(s.shown, &s.me)
			s.verifyOwn()
		}, want: row{no, verified, verified, verified, lost}},
		{event: "verified here", happens: func(s *scene) {
			s.verifyOwn()
			if s.shown.user != "" {
				if err := s.SetVerified(ctx, bob, s.shown.masterSignedBy(s.me)); err != nil {
					s.t.Error(err)
				}
			}
		}, want: row{no, verified, verified, verified, verified}},
		{event: "our identity is reset elsewhere", happens: func(s *scene) {
			s.srv.publish(s.me2)
			s.update(alice)
		}, want: row{no, pinned, changed, lost, lost}},
		{event: "our identity is reset elsewhere and back", happens: func(s *scene) {
			s.srv.publish(s.me2)
			s.update(alice)
			s.srv.publish(s.me)
			s.update(alice)
		}, want: row{no, pinned, changed, lost, lost}},
		{event: "the current one is acknowledged", happens: func(s *scene) { _ = s.Acknowledge(ctx, bob, s.shown.master.public) }, want: row{no, pinned, pinned, verified, lost}},
		{event: "another one is acknowledged", happens: func(s *scene) { _ = s.Acknowledge(ctx, bob, newSigner("x").public) }, want: row{no, pinned, changed, verified, lost}},
		{event: "verification is withdrawn", happens: func(s *scene) { _ = s.Withdraw(ctx, bob) }, want: row{no, pinned, changed, verified, pinned},
			reference: row{no, pinned, pinned, verified, pinned}, why: "there is nothing to withdraw before it is lost; a change is acknowledged by its key"},
		{event: "the homeserver shows no identity (4.8)", happens: func(s *scene) {
			s.srv.edit(func(r *QueryResult) { delete(r.MasterKeys, bob); delete(r.SelfSigningKeys, bob) })
			s.update(bob)
		}, want: row{no, pinned, changed, verified, lost}},
		{event: "the homeserver shows null", happens: func(s *scene) {
			s.srv.edit(func(r *QueryResult) { r.MasterKeys[bob], r.SelfSigningKeys[bob] = json.RawMessage("null"), nil })
			s.update(bob)
		}, want: row{no, pinned, changed, verified, lost}},
		{event: "another master key with a self-signing key it has not signed", happens: func(s *scene) {
			p := newPerson(bob, "3")
			s.srv.publish(p)
			s.srv.edit(func(r *QueryResult) { r.SelfSigningKeys[bob] = p.bySelf(p.selfSigningFields(), s.p.master) })
			s.update(bob)
		}, want: row{no, pinned, changed, verified, lost}},
		{event: "his server cannot be reached (0.12)", happens: func(s *scene) {
			s.srv.edit(func(r *QueryResult) {
				delete(r.DeviceKeys, bob)
				delete(r.MasterKeys, bob)
				r.Failures["example.org"] = json.RawMessage(`{}`)
			})
			s.update(bob)
		}, want: row{no, pinned, changed, verified, lost}},
		{event: "another master key, in an account that nobody watches", automatic: true, happens: func(s *scene) { s.show(newPerson(bob, "3"), nil) },
			want: row{pinned, pinned, pinned, lost, lost}, reference: row{pinned, changed, changed, lost, lost}, why: watched},
	} {
		if tc.reference == (row{}) {
			tc.reference = tc.want
		}
		if (tc.reference != tc.want) != (tc.why != "") {
			t.Errorf("%s: what differs from the reference and why do not go together", tc.event)
		}
		t.Run(tc.event, func(t *testing.T) {
			t.Parallel()
			for i, from := range states {
				s := newScene(t, tc.automatic && from != PinChanged)
				s.reach(from)
				if tc.automatic && from == PinChanged { // it was set so after the change
					s.opts.AcknowledgeUnverified = func() bool { return true }
				}
				tc.happens(s)
				got := s.lookup(bob).State()
				if got.String() != tc.want[i] {
					t.Errorf("from %v: %v, want %s", from, got, tc.want[i])
				}
				if again := track(t, s.srv, s.mem).lookup(bob).State(); again != got {
					t.Errorf("from %v, after a restart: %v, was %v", from, again, got)
				}
			}
		})
	}
}

// The own identity: never verified, changed (a state of ours), verified, lost. "Verified"
// is that we hold the private keys that belong to it.
func TestOwnIdentityTable(t *testing.T) {
	t.Parallel()
	const never, changed, verified, lost = "pinned", "changed", "verified", "verification_lost"
	ctx := context.Background()
	states := []PinState{PinPinned, PinChanged, PinVerified, PinVerificationLost}
	type row = [4]string
	reach := func(t *testing.T, state PinState) *scene {
		s := newScene(t, true) // whoever nobody watches does not accept their own reset either
		switch state {
		case PinPinned, PinNone:
		case PinChanged:
			s.srv.publish(s.me2)
			s.update(alice)
		case PinVerified:
			s.verifyOwn()
		case PinVerificationLost:
			s.verifyOwn()
			s.srv.publish(s.me2)
			s.update(alice)
		}
		if got := s.lookup(alice).State(); got != state {
			t.Fatalf("%v cannot be reached: %v", state, got)
		}
		return s
	}
	current := func(s *scene) id.Ed25519 { return s.lookup(alice).Current }
	for _, tc := range []struct {
		event     string
		happens   func(s *scene) error
		want      row
		reference row
		why       string
	}{
		{event: "the private keys fit", happens: func(s *scene) error { _, err := s.SetOwnIdentity(ctx, current(s)); return err }, want: row{verified, verified, verified, verified}},
		{event: "the private keys do not fit", happens: func(s *scene) error { _, err := s.SetOwnIdentity(ctx, newSigner("x").public); return err }, want: row{never, changed, verified, lost}},
		{event: "another master key", happens: func(s *scene) error { s.srv.publish(newPerson(alice, "3")); s.update(alice); return nil }, want: row{changed, changed, lost, lost},
			reference: row{never, "-", lost, lost}, why: "also an own identity that was never verified here freezes the device when it is swapped (A9)"},
		{event: "another master key, which we have announced", happens: func(s *scene) error {
			p := newPerson(alice, "3")
			if _, err := s.SetOwnIdentity(ctx, p.master.public); err != nil {
				return err
			}
			s.srv.publish(p)
			s.update(alice)
			return nil
		}, want: row{verified, verified, verified, verified}, reference: row{"-", "-", "-", "-"}, why: "a reset of our own is no alarm, wherever a crash falls"},
		{event: "acknowledged", happens: func(s *scene) error { _ = s.Acknowledge(ctx, alice, current(s)); return nil }, want: row{never, never, verified, lost},
			reference: row{"-", "-", "-", "-"}, why: "the reference has no change to acknowledge"},
		{event: "withdrawn", happens: func(s *scene) error { _ = s.Withdraw(ctx, alice); return nil }, want: row{never, changed, verified, never},
			reference: row{never, "-", verified, never}, why: "there is nothing to withdraw before it is lost"},
		{event: "no identity shown (4.8)", happens: func(s *scene) error {
			s.srv.edit(func(r *QueryResult) { clear(r.MasterKeys); clear(r.SelfSigningKeys); clear(r.UserSigningKeys) })
			s.update(alice)
			return nil
		}, want: row{never, changed, verified, lost}},
	} {
		if tc.reference == (row{}) {
			tc.reference = tc.want
		}
		if (tc.reference != tc.want) != (tc.why != "") {
			t.Errorf("%s: what differs from the reference and why do not go together", tc.event)
		}
		for i, from := range states {
			s := reach(t, from)
			if err := tc.happens(s); err != nil {
				t.Errorf("%s, from %v: %v", tc.event, from, err)
			}
			if got := s.lookup(alice).State(); got.String() != tc.want[i] {
				t.Errorf("%s, from %v: %v, want %s", tc.event, from, got, tc.want[i])
			}
		}
	}
}
