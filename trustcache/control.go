package trustcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"
)

var (
	// ErrNoDevice means that a user has no such device.
	ErrNoDevice = errors.New("the user has no such device")
	// ErrKeyCollision means that a user must not be verified because a device of theirs has
	// the name or the key of their identity (requirement 1.26).
	ErrKeyCollision = errors.New("a device of the user has the name or key of their digital identity")
	// ErrNotVerified means that the own identity is not verified, so that it can verify nobody
	// else's.
	ErrNotVerified = errors.New("the own digital identity is not verified")
)

// deciding is the key under which a context has the device of [By].
type deciding struct{}

// By returns a context for what a person decides in the session of a device: the audit log is
// told which. A stolen token is one of them.
func By(ctx context.Context, device id.DeviceID) context.Context {
	return context.WithValue(ctx, deciding{}, device)
}

func decidedBy(ctx context.Context) id.DeviceID {
	device, _ := ctx.Value(deciding{}).(id.DeviceID)
	return device
}

// Acknowledge accepts the current identity of a user. master must be its master key: if the
// identity has changed again meanwhile, that is not accepted. Errors: ErrNoIdentity,
// ErrNotCurrent, ErrVerificationLost; none of them changes anything.
func (t *Tracker) Acknowledge(ctx context.Context, user id.UserID, master id.Ed25519) error {
	return t.pinEvent(ctx, user, PinEvent{Kind: PinAcknowledge, Master: master})
}

// Withdraw drops the verification of a user whose verification was lost, and accepts their
// current identity. Error: ErrNothingToWithdraw.
func (t *Tracker) Withdraw(ctx context.Context, user id.UserID) error {
	return t.pinEvent(ctx, user, PinEvent{Kind: PinWithdraw})
}

func (t *Tracker) pinEvent(ctx context.Context, user id.UserID, ev PinEvent) error {
	return t.change(ctx, []id.UserID{user}, func(w *rowsTx) error {
		e := w.get(user)
		before := len(w.events)
		row, err := w.applyPin(e, e.row, ev)
		if err != nil {
			return err
		}
		if len(w.events) > before {
			w.setRow(e, row)
		}
		return nil
	})
}

// SetVerified records that our user-signing key has signed the identity of a user.
// signed is the master key object with that signature, as it was, or is to be, uploaded.
// Errors: ErrNotVerified, ErrKeyCollision, ErrNotCurrent, ErrSignature and those of parsing.
func (t *Tracker) SetVerified(ctx context.Context, user id.UserID, signed json.RawMessage) error {
	identity, err := ParseIdentity(user, signed, nil, nil)
	if err != nil {
		return err
	}
	return t.change(ctx, []id.UserID{user}, func(w *rowsTx) error {
		e, signer := w.get(user), w.ownSigner()
		switch {
		case signer == "" || e.user.Own:
			return ErrNotVerified
		case e.user.KeyCollision():
			return ErrKeyCollision
		case identity.Master != e.user.Current:
			return ErrNotCurrent
		case !masterSignedBy(signed, t.account.UserID, signer):
			return fmt.Errorf("verify a user: %w", ErrSignature)
		}
		row := e.row
		row.Master = identity.MasterRaw
		row, err := w.applyPin(e, row, PinEvent{Kind: PinSeen, Master: identity.Master, SignedByUs: true})
		if err != nil {
			return err
		}
		w.setRow(e, row)
		return nil
	})
}

// SetOwnIdentity records the master key of the own user whose private key we hold, or that
// was verified. If it is the current one, it and the users that it has signed are verified
// from now on; otherwise as soon as the homeserver shows it, without a warning. An empty
// master takes that back, when the private keys are gone. It reports whether the own
// identity is verified now.
func (t *Tracker) SetOwnIdentity(ctx context.Context, master id.Ed25519) (verified bool, err error) {
	t.mu.Lock()
	t.held = master
	t.mu.Unlock()
	own := t.account.UserID
	err = t.change(ctx, nil, func(w *rowsTx) error {
		e := w.get(own)
		if verified = e.user.Verified && e.user.Current == master; verified || master == "" || master != e.user.Current {
			return nil
		}
		verified = true
		signer := w.ownSigner()
		row, err := w.applyPin(e, e.row, PinEvent{Kind: PinSeen, Master: master, SignedByUs: true})
		if err != nil {
			return err
		}
		w.setRow(e, row)
		if signer != w.ownSigner() {
			return w.recheck(ctx)
		}
		return nil
	})
	return verified && err == nil, err
}

// Ended records that sessions of the own user have ended, and their devices with them. A
// device that appears later under one of their IDs is a new one, with keys of its own. What was said
// against a device stays.
func (t *Tracker) Ended(ctx context.Context, devices ...id.DeviceID) error {
	return t.change(ctx, nil, func(w *rowsTx) error {
		e := w.get(t.account.UserID)
		left := slices.DeleteFunc(slices.Clone(e.user.Devices), func(d Device) bool { return slices.Contains(devices, d.DeviceID) })
		if len(left) == len(e.user.Devices) {
			return nil
		}
		gone := w.distrusts(e.user, left)
		w.recordDevices(e.user, update{devices: left})
		w.set(newEntry(t.account.UserID, e.row, e.user.Identity, left, gone...).askedAt(e.asked))
		return nil
	})
}
