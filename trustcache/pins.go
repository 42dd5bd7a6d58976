package trustcache

import (
	"errors"

	"maunium.net/go/mautrix/id"
)

// PinState is how a user's digital identity compares with the one the account has
// accepted (trust-semantics §3.1, design §5).
type PinState int

const (
	// PinNone is a user without an identity.
	PinNone PinState = iota
	// PinPinned is an identity that was accepted: at first sight, or by acknowledging.
	PinPinned
	// PinChanged is an identity that differs from the accepted one; the user had never been verified.
	PinChanged
	// PinVerified is an identity that our own verified identity has signed.
	PinVerified
	// PinVerificationLost is an identity that is not verified although the user was.
	PinVerificationLost
)

// String gives the name the control API uses.
func (s PinState) String() string {
	switch s {
	case PinNone:
		return "none"
	case PinPinned:
		return "pinned"
	case PinChanged:
		return "changed"
	case PinVerified:
		return "verified"
	case PinVerificationLost:
		return "verification_lost"
	default:
		return "invalid"
	}
}

// Accepted reports whether nothing waits for an acknowledgement.
func (s PinState) Accepted() bool { return s == PinPinned || s == PinVerified || s == PinNone }

// Pin is what an account accepted of a user's identity. The zero value is a user
// without one.
type Pin struct {
	// Current is the master key the homeserver shows; once known it is never empty again.
	Current id.Ed25519
	// PinnedMaster is the master key that was accepted.
	PinnedMaster id.Ed25519
	// Verified says that our own verified identity has signed Current. For the own user:
	// that we hold the private keys of Current, or verified it.
	Verified bool
	// WasVerified latches with Verified; only withdrawing clears it.
	WasVerified bool
}

// State gives the state the pin is in.
func (p Pin) State() PinState {
	switch {
	case p.Current == "":
		return PinNone
	case p.Verified:
		return PinVerified
	case p.WasVerified:
		return PinVerificationLost
	case p.PinnedMaster != p.Current:
		return PinChanged
	default:
		return PinPinned
	}
}

// LostByUs reports whether a verification was lost because our own identity changed,
// and not the user's: the words for a person differ.
func (p Pin) LostByUs() bool {
	return p.State() == PinVerificationLost && p.PinnedMaster == p.Current
}

// PinEventKind is what happened to a pin. The zero value changes nothing.
type PinEventKind int

const (
	// PinSeen: the homeserver shows Master, or our own identity changed so that Verified
	// must be looked at again. An empty Master is a homeserver that shows no identity.
	PinSeen PinEventKind = iota + 1
	// PinAcknowledge: the account's owner accepts Master.
	PinAcknowledge
	// PinWithdraw: the account's owner gives up the verification of the user.
	PinWithdraw
)

// PinEvent is one event of the pin state machine.
type PinEvent struct {
	Kind   PinEventKind
	Master id.Ed25519
	// SignedByUs (PinSeen) says that our own verified identity signed Master.
	SignedByUs bool
	// Automatic (PinSeen) lets changes of never-verified users be acknowledged at once.
	Automatic bool
}

// PinEffect is what a transition means to the account's owner.
type PinEffect string

// The effects. They are stored in the history under these names.
const (
	EffectFirstSeen PinEffect = "first_seen"
	// EffectChanged is another master key than before. Whether it waits for an
	// acknowledgement is the state's to say: it may be one that we have signed.
	EffectChanged              PinEffect = "changed"
	EffectRestored             PinEffect = "restored" // the accepted identity is back
	EffectVerified             PinEffect = "verified"
	EffectVerificationLost     PinEffect = "verification_lost"
	EffectAcknowledged         PinEffect = "acknowledged"
	EffectAcknowledgedByPolicy PinEffect = "acknowledged_by_policy"
	EffectWithdrawn            PinEffect = "withdrawn"
)

// Lines of the history about the self-signing key in Previous of the master key in
// Master: it was replaced by another under it, or another master key came. They are no
// transitions of the pin.
const (
	kindRetired = "self_signing_replaced"
	kindLeft    = "self_signing_left"
)

var (
	// ErrNotCurrent says that an acknowledgement names a master key that is not, or no
	// longer, the user's current one: a race is decided by the key.
	ErrNotCurrent = errors.New("that is not the user's current digital identity")
	// ErrVerificationLost says that acknowledging is not enough: the user was verified,
	// so verify again or withdraw the verification.
	ErrVerificationLost = errors.New("the user was verified; verify again or withdraw the verification")
	// ErrNothingToWithdraw says that no lost verification is there to withdraw.
	ErrNothingToWithdraw = errors.New("there is no lost verification to withdraw")
)

// Apply gives the pin after an event and what that means, in order. On an error
// nothing changed.
func (p Pin) Apply(ev PinEvent) (Pin, []PinEffect, error) {
	switch ev.Kind {
	case PinSeen:
		next, effects := p.seen(ev)
		return next, effects, nil
	case PinAcknowledge:
		return p.acknowledge(ev.Master)
	case PinWithdraw:
		if p.State() != PinVerificationLost {
			return p, nil, ErrNothingToWithdraw
		}
		p.WasVerified, p.PinnedMaster = false, p.Current
		return p, []PinEffect{EffectWithdrawn}, nil
	default:
		return p, nil, nil
	}
}

func (p Pin) acknowledge(master id.Ed25519) (Pin, []PinEffect, error) {
	if p.Current == "" {
		return p, nil, ErrNoIdentity
	}
	if master != p.Current {
		return p, nil, ErrNotCurrent
	}
	switch p.State() {
	case PinVerificationLost:
		return p, nil, ErrVerificationLost
	case PinChanged:
		p.PinnedMaster = p.Current
		return p, []PinEffect{EffectAcknowledged}, nil
	case PinNone, PinPinned, PinVerified:
		return p, nil, nil
	default:
		return p, nil, nil
	}
}

func (p Pin) seen(ev PinEvent) (Pin, []PinEffect) {
	if ev.Master == "" {
		return p, nil // never erased (requirement 4.8)
	}
	was, before := p.State(), p.Current
	p.Current = ev.Master
	if p.PinnedMaster == "" {
		p.PinnedMaster = ev.Master
	}
	p.Verified = ev.SignedByUs
	if p.Verified {
		p.WasVerified, p.PinnedMaster = true, ev.Master
	}
	var effects []PinEffect
	if before == "" {
		effects = append(effects, EffectFirstSeen)
	}
	if before != "" && before != ev.Master && p.State() != PinPinned {
		effects = append(effects, EffectChanged)
	}
	switch now := p.State(); {
	case now == PinVerified && was != PinVerified:
		effects = append(effects, EffectVerified)
	case now == PinVerificationLost && was == PinVerified:
		effects = append(effects, EffectVerificationLost)
	case now == PinPinned && was == PinChanged:
		effects = append(effects, EffectRestored)
	case now == PinChanged && ev.Automatic:
		p.PinnedMaster = ev.Master
		effects = append(effects, EffectAcknowledgedByPolicy)
	}
	return p, effects
}
