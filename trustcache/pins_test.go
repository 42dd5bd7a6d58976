package trustcache

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"
)

const (
	keyA id.Ed25519 = "A"
	keyB id.Ed25519 = "B"
	keyC id.Ed25519 = "C"
)

// Every transition of a pin, with our deviations from the reference, also for the own
// identity, where "signed by us" is "we hold the private keys".
func TestPinTransitions(t *testing.T) {
	t.Parallel()
	seen := func(master id.Ed25519, signed bool) PinEvent {
		return PinEvent{Kind: PinSeen, Master: master, SignedByUs: signed}
	}
	auto := func(master id.Ed25519, signed bool) PinEvent {
		return PinEvent{Kind: PinSeen, Master: master, SignedByUs: signed, Automatic: true}
	}
	ack := func(master id.Ed25519) PinEvent { return PinEvent{Kind: PinAcknowledge, Master: master} }
	withdraw := PinEvent{Kind: PinWithdraw}

	none := Pin{}
	pinned := Pin{Current: keyA, PinnedMaster: keyA}
	changed := Pin{Current: keyB, PinnedMaster: keyA}
	verified := Pin{Current: keyA, PinnedMaster: keyA, Verified: true, WasVerified: true}
	lost := Pin{Current: keyB, PinnedMaster: keyA, WasVerified: true}
	lostByUs := Pin{Current: keyA, PinnedMaster: keyA, WasVerified: true}

	for _, tc := range []struct {
		name    string
		from    Pin
		event   PinEvent
		to      Pin
		state   PinState
		effects []PinEffect
		err     error
	}{
		{"unknown: first identity", none, seen(keyA, false), pinned, PinPinned, []PinEffect{EffectFirstSeen}, nil},
		{"unknown: first identity, which we have signed", none, seen(keyA, true), verified, PinVerified, []PinEffect{EffectFirstSeen, EffectVerified}, nil},
		{"unknown: no identity shown", none, seen("", false), none, PinNone, nil, nil},

		{"pinned: the same, perhaps a new self-signing key", pinned, seen(keyA, false), pinned, PinPinned, nil, nil},
		{"pinned: another, not signed by us", pinned, seen(keyB, false), changed, PinChanged, []PinEffect{EffectChanged}, nil},
		{"pinned: our signature appears", pinned, seen(keyA, true), verified, PinVerified, []PinEffect{EffectVerified}, nil},
		{
			"pinned: another, signed by us", pinned, seen(keyB, true),
			Pin{Current: keyB, PinnedMaster: keyB, Verified: true, WasVerified: true}, PinVerified,
			[]PinEffect{EffectChanged, EffectVerified}, nil,
		},
		{"pinned: none shown", pinned, seen("", false), pinned, PinPinned, nil, nil},

		{"changed: acknowledged", changed, ack(keyB), Pin{Current: keyB, PinnedMaster: keyB}, PinPinned, []PinEffect{EffectAcknowledged}, nil},
		{"changed: acknowledged too late", Pin{Current: keyC, PinnedMaster: keyA}, ack(keyB), Pin{Current: keyC, PinnedMaster: keyA}, PinChanged, nil, ErrNotCurrent},
		{"changed: the old one acknowledged", changed, ack(keyA), changed, PinChanged, nil, ErrNotCurrent},
		{"changed: nothing acknowledged", changed, ack(""), changed, PinChanged, nil, ErrNotCurrent},
		{"changed: verified", changed, seen(keyB, true), Pin{Current: keyB, PinnedMaster: keyB, Verified: true, WasVerified: true}, PinVerified, []PinEffect{EffectVerified}, nil},
		{"changed: again", changed, seen(keyC, false), Pin{Current: keyC, PinnedMaster: keyA}, PinChanged, []PinEffect{EffectChanged}, nil},
		{"changed: back", changed, seen(keyA, false), pinned, PinPinned, []PinEffect{EffectRestored}, nil},
		{"changed: seen once more", changed, seen(keyB, false), changed, PinChanged, nil, nil},
		{"changed: none shown", changed, seen("", false), changed, PinChanged, nil, nil},
		{"changed: withdrawn", changed, withdraw, changed, PinChanged, nil, ErrNothingToWithdraw},

		{"verified: another, not signed by us", verified, seen(keyB, false), lost, PinVerificationLost, []PinEffect{EffectChanged, EffectVerificationLost}, nil},
		{"verified: own identity reset", verified, seen(keyA, false), lostByUs, PinVerificationLost, []PinEffect{EffectVerificationLost}, nil},
		{"verified: the same again", verified, seen(keyA, true), verified, PinVerified, nil, nil},
		{"verified: none shown", verified, seen("", false), verified, PinVerified, nil, nil},
		{"verified: withdrawn", verified, withdraw, verified, PinVerified, nil, ErrNothingToWithdraw},
		{"verified: acknowledged", verified, ack(keyA), verified, PinVerified, nil, nil},

		{"lost: withdrawn", lost, withdraw, Pin{Current: keyB, PinnedMaster: keyB}, PinPinned, []PinEffect{EffectWithdrawn}, nil},
		{"lost: acknowledged only", lost, ack(keyB), lost, PinVerificationLost, nil, ErrVerificationLost},
		{"lost: verified again", lost, seen(keyB, true), Pin{Current: keyB, PinnedMaster: keyB, Verified: true, WasVerified: true}, PinVerified, []PinEffect{EffectVerified}, nil},
		{"lost: back, not signed by us", lost, seen(keyA, false), lostByUs, PinVerificationLost, []PinEffect{EffectChanged}, nil},
		{"lost: back, signed by us", lost, seen(keyA, true), verified, PinVerified, []PinEffect{EffectChanged, EffectVerified}, nil},
		{"lost: none shown", lost, seen("", false), lost, PinVerificationLost, nil, nil},
		{"lost by us: our identity is back", lostByUs, seen(keyA, true), verified, PinVerified, []PinEffect{EffectVerified}, nil},
		{"lost by us: withdrawn", lostByUs, withdraw, pinned, PinPinned, []PinEffect{EffectWithdrawn}, nil},
		{"lost by us: acknowledged only", lostByUs, ack(keyA), lostByUs, PinVerificationLost, nil, ErrVerificationLost},
		{"lost by us: theirs changes too", lostByUs, seen(keyB, false), lost, PinVerificationLost, []PinEffect{EffectChanged}, nil},
		{"lost by us: automatic", lostByUs, auto(keyA, false), lostByUs, PinVerificationLost, nil, nil},

		{"nobody to acknowledge", none, ack(keyA), none, PinNone, nil, ErrNoIdentity},
		{"nobody to withdraw from", none, withdraw, none, PinNone, nil, ErrNothingToWithdraw},
		{"pinned: withdrawn", pinned, withdraw, pinned, PinPinned, nil, ErrNothingToWithdraw},
		{"pinned: acknowledged again", pinned, ack(keyA), pinned, PinPinned, nil, nil},
		{"no event", changed, PinEvent{}, changed, PinChanged, nil, nil},

		{"automatic: changed", pinned, auto(keyB, false), Pin{Current: keyB, PinnedMaster: keyB}, PinPinned, []PinEffect{EffectChanged, EffectAcknowledgedByPolicy}, nil},
		{"automatic: switched on after the change", changed, auto(keyB, false), Pin{Current: keyB, PinnedMaster: keyB}, PinPinned, []PinEffect{EffectAcknowledgedByPolicy}, nil},
		{"automatic: never for one that was verified", verified, auto(keyB, false), lost, PinVerificationLost, []PinEffect{EffectChanged, EffectVerificationLost}, nil},
		{"automatic: nor after it was lost", lost, auto(keyC, false), Pin{Current: keyC, PinnedMaster: keyA, WasVerified: true}, PinVerificationLost, []PinEffect{EffectChanged}, nil},
		{"automatic: nothing changed", pinned, auto(keyA, false), pinned, PinPinned, nil, nil},
	} {
		got, effects, err := tc.from.Apply(tc.event)
		if !errors.Is(err, tc.err) {
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.err)
		}
		if diff := cmp.Diff(tc.to, got); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
		if diff := cmp.Diff(tc.effects, effects); diff != "" {
			t.Errorf("%s: effects %s", tc.name, diff)
		}
		if got.State() != tc.state {
			t.Errorf("%s: state %v, want %v", tc.name, got.State(), tc.state)
		}
	}
}

// A lost verification ends by verification or withdrawal only, whatever else happens.
func TestLostVerificationIsSticky(t *testing.T) {
	t.Parallel()
	masters := []id.Ed25519{"", keyA, keyB, keyC}
	var try func(p Pin, depth int)
	try = func(p Pin, depth int) {
		if p.State() != PinVerificationLost {
			t.Fatalf("left the state: %+v", p)
		}
		if depth == 0 {
			return
		}
		for _, m := range masters {
			for _, ev := range []PinEvent{
				{Kind: PinSeen, Master: m}, {Kind: PinSeen, Master: m, Automatic: true}, {Kind: PinAcknowledge, Master: m},
			} {
				next, _, _ := p.Apply(ev)
				try(next, depth-1)
			}
		}
	}
	try(Pin{Current: keyB, PinnedMaster: keyA, WasVerified: true}, 4)
}

func TestPinStateNames(t *testing.T) {
	t.Parallel()
	want := map[PinState]string{
		PinNone: "none", PinPinned: "pinned", PinChanged: "changed", PinVerified: "verified",
		PinVerificationLost: "verification_lost", PinState(99): "invalid",
	}
	for s, name := range want {
		if s.String() != name {
			t.Errorf("got %s, want %s", s, name)
		}
		if accepted := s == PinNone || s == PinPinned || s == PinVerified; s.Accepted() != accepted {
			t.Errorf("%s: accepted %v", s, s.Accepted())
		}
	}
	if !(Pin{Current: keyA, PinnedMaster: keyA, WasVerified: true}).LostByUs() || (Pin{Current: keyB, PinnedMaster: keyA, WasVerified: true}).LostByUs() {
		t.Error("who lost a verification cannot be told")
	}
}
