package trustcache

import (
	"errors"

	"maunium.net/go/mautrix/id"
)

// PinState compares a user's identity with the one that the account has accepted.
type PinState int

const (
	// PinNone is a user without an identity.
	PinNone PinState = iota
	// PinPinned is an identity that was accepted: when first seen, or by acknowledging it.
	PinPinned
	// PinChanged is an identity that differs from the accepted one; the user had never been verified.
	PinChanged
	// PinVerified is an identity that our own verified identity has signed.
	PinVerified
	// PinVerificationLost is an identity that is not verified although the user was.
	PinVerificationLost
)

// String returns the name used by the control API.
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

// Accepted reports whether no change waits for an acknowledgement.
func (s PinState) Accepted() bool { return s == PinPinned || s == PinVerified || s == PinNone }

// Pin records which of a user's identities the account accepted. The zero value is a user
// without an identity.
type Pin struct {
	// Current is the master key the homeserver shows; once known it is never empty again.
	Current id.Ed25519
	// PinnedMaster is the master key that was accepted.
	PinnedMaster id.Ed25519
	// Verified reports whether our own verified identity has signed Current. For the own user:
	// whether we hold the private keys of Current, or verified it.
	Verified bool
	// WasVerified is set with Verified; only withdrawing clears it.
	WasVerified bool
}

// State returns the state that follows from the pin.
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

// LostByUs reports whether a verification was lost because our own identity changed, not
// the user's. The text for a person differs.
func (p Pin) LostByUs() bool {
	return p.State() == PinVerificationLost && p.PinnedMaster == p.Current
}

// PinEventKind is the kind of a [PinEvent]. The zero value changes nothing.
type PinEventKind int

const (
	// PinSeen: the homeserver shows Master, or our own identity changed so that Verified
	// must be looked at again. An empty Master is a homeserver that shows no identity.
	PinSeen PinEventKind = iota + 1
	// PinAcknowledge: the account's owner accepts Master.
	PinAcknowledge
	// PinWithdraw: the account's owner withdraws the verification of the user.
	PinWithdraw
)

// PinEvent is one input of the pin state machine.
type PinEvent struct {
	Kind   PinEventKind
	Master id.Ed25519
	// SignedByUs (PinSeen) reports whether our own verified identity signed Master.
	SignedByUs bool
	// Automatic (PinSeen) lets changes of never-verified users be acknowledged at once.
	Automatic bool
}

// PinEffect is the meaning of a transition for the account's owner.
type PinEffect string

// The effects. They are stored in the history under these names.
const (
	EffectFirstSeen PinEffect = "first_seen"
	// EffectChanged is another master key than before. The state says whether it waits for an
	// acknowledgement: we may have signed it.
	EffectChanged              PinEffect = "changed"
	EffectRestored             PinEffect = "restored" // the accepted identity is back
	EffectVerified             PinEffect = "verified"
	EffectVerificationLost     PinEffect = "verification_lost"
	EffectAcknowledged         PinEffect = "acknowledged"
	EffectAcknowledgedByPolicy PinEffect = "acknowledged_by_policy"
	EffectWithdrawn            PinEffect = "withdrawn"
)

// Kinds of lines in the history about self-signing keys. Previous was a self-signing key of
// the master key Master until another replaced it, or another master key came. They are no
// transitions of the pin.
const (
	kindRetired = "self_signing_replaced"
	kindLeft    = "self_signing_left"
)

var (
	// ErrNotCurrent means that an acknowledgement names a master key that is not, or no
	// longer, the user's current one.
	ErrNotCurrent = errors.New("that is not the user's current digital identity")
	// ErrVerificationLost means that acknowledging is not enough: the user was verified, so
	// verify again or withdraw the verification.
	ErrVerificationLost = errors.New("the user was verified; verify again or withdraw the verification")
	// ErrNothingToWithdraw means that there is no lost verification.
	ErrNothingToWithdraw = errors.New("there is no lost verification to withdraw")
)

// Apply returns the pin after an event, and the effects in order. On an error nothing has
// changed.
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
