package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// ownIdentity is how a device stands to its user's identity.
type ownIdentity struct {
	serverKeys  json.RawMessage // our device keys as the homeserver shows them, with all signatures
	own         ownState
	confirmedAt time.Time // when this process signed the device
	signature   signatureTrial
	settled     bool // the identity was looked at, and nothing has changed since
	unsettled   int  // how often something changed
}

// ownState is how the device and its owner's identity stand, as read from the
// homeserver, never as assumed. The zero value may not send.
type ownState int

const (
	// ownUnknown has not been read yet.
	ownUnknown ownState = iota
	// ownNoIdentity is a user without cross-signing keys.
	ownNoIdentity
	// ownUnsigned is a user whose identity has not signed this device, and whose private
	// keys are not here.
	ownUnsigned
	// ownChanged is an identity that took the place, elsewhere, of the one this account
	// knew. Whether it signed this device does not matter: it is not trusted (attack A9).
	ownChanged
	// ownReplaced is a device for which the homeserver shows keys that are not ours.
	ownReplaced
	// ownSigned is a device signed by its owner's current identity.
	ownSigned
)

// setUpIdentity makes an identity where there is none, recovers it where the
// configuration says how, signs the device where we hold the keys, and keeps secret
// storage and backup complete. Every step looks at what the homeserver has, so that it
// can be repeated after a crash anywhere (requirement 12.13).
func (d *Device) setUpIdentity(ctx context.Context) error {
	if d.isSettled() && !d.signatureDue() {
		return nil
	}
	d.mu.Lock()
	looked := d.ownIdentity.unsettled
	d.mu.Unlock()
	password, given := d.acct.password.take()
	err := d.bootstrap(ctx, UserAuth{Password: password}, bootstrapping{create: !d.eng.opts.ManualBootstrap})
	var auth *AuthNeededError
	if err != nil && !errors.As(err, &auth) && !errors.Is(err, ErrWrongPassword) && !signatureFailed(err) {
		return err
	}
	// Done, or in need of a person: looked at again when something changes.
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ownIdentity.settled = d.record.row.KeysUploaded && d.ownIdentity.own != ownUnknown && d.ownIdentity.unsettled == looked
	if d.ownIdentity.settled && (d.ownIdentity.own != ownNoIdentity || !d.eng.opts.ManualBootstrap) { // else POST bootstrap may need it
		d.acct.password.forgetGiven(given)
	}
	return err
}

// unsettleLocked has the identity looked at again. The caller holds d.mu.
func (d *Device) unsettleLocked() {
	d.ownIdentity.settled = false
	d.ownIdentity.unsettled++
	d.acct.forgetBackup()
	d.kickLocked()
}

// bootstrapping says what a bootstrap may do.
type bootstrapping struct {
	// create allows a new identity, secret storage or backup where there is none.
	create bool
	// explicit is a person's wish: also a backup that was deleted is made again.
	explicit bool
}

// errOwnUnknown says that the homeserver did not say how the own keys stand. Nothing may
// be made then: it might replace something.
var errOwnUnknown = errors.New("the own keys could not be read from the homeserver")

// bootstrap does the work of setUpIdentity.
func (d *Device) bootstrap(ctx context.Context, auth UserAuth, may bootstrapping) error {
	if d.mode != ModeProxied {
		return nil
	}
	d.mu.Lock()
	uploaded := d.record.row.KeysUploaded
	d.mu.Unlock()
	if !uploaded {
		return nil // the next maintenance comes after the upload
	}
	give, err := d.acct.boot.take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	resetting, err := d.acct.loadReset(ctx)
	if err != nil {
		return err
	}
	own, err := d.readOwn(ctx, true)
	switch {
	case err != nil:
		return err
	case own.Knowledge != trustcache.KnowledgeFresh:
		return errOwnUnknown
	case resetting != nil && resetting.master.PublicKey() == own.Current:
		return d.finishReset(ctx, resetting) // one that was interrupted
	}
	keys, err := d.fittingKeys(ctx, own)
	if err != nil {
		return err
	}
	var opened *ssss.Key
	switch {
	case own.Current == "" && !may.create:
		return nil
	case own.Current == "":
		if own, keys, err = d.createIdentity(ctx, keys, auth); err != nil {
			return err
		}
	case keys == nil:
		if keys, opened, err = d.recoverAlone(ctx, own); err != nil {
			return err
		}
	}
	if keys == nil {
		return d.awaitIdentity(ctx, own)
	}
	if !own.State().Accepted() {
		// It changed elsewhere, and is about to be accepted with nobody present.
		if err := d.tellRecoveredAlone(ctx); err != nil {
			return err
		}
	}
	return d.takeIntoUse(ctx, own, keys, opened, may)
}

// awaitIdentity does what can be done with an identity whose keys are not here: its owner
// or another device may bring them.
func (d *Device) awaitIdentity(ctx context.Context, own *trustcache.User) error {
	d.acct.noteStorage(storageUnknown)
	if !own.Verified {
		d.acct.noteBackup(backupUnknown)
		return nil
	}
	if _, err := d.completeBackup(ctx, nil, nil, bootstrapping{}); err != nil {
		return err
	}
	return d.wantSecrets(ctx, own)
}

// fittingKeys gives the private keys that belong to the published identity; nil unless
// all of them are here. Those that do not belong to it are dropped: another client
// replaced the identity (requirement 12.12).
func (d *Device) fittingKeys(ctx context.Context, own *trustcache.User) (*crossSigning, error) {
	keys, err := d.acct.loadParts(ctx)
	if err != nil {
		return nil, err
	}
	if own.Current == "" { // nothing is published yet
		return d.acct.loadCrossSigning(ctx)
	}
	misfits := keys.misfits(own)
	if len(misfits) == 0 {
		return d.acct.loadCrossSigning(ctx)
	}
	if err := d.save(ctx, &store.Changes{DeleteSecrets: misfits}); err != nil {
		return nil, fmt.Errorf("drop keys that do not belong to the identity: %w", err)
	}
	d.eng.log.Warn().Stringer("account", d.acct.user).Int("keys", len(misfits)).
		Msg("The identity was replaced by another client; its old private keys were dropped")
	return d.acct.loadCrossSigning(ctx)
}

// readOwn reads the own user's keys and records how the device stands. again asks the
// homeserver even if nothing is known to have changed.
func (d *Device) readOwn(ctx context.Context, again bool) (*trustcache.User, error) {
	ask := d.acct.tracker.Lookup
	if again {
		ask = d.acct.tracker.Query
	}
	users, err := ask(ctx, d.query(), []id.UserID{d.acct.user})
	if err != nil {
		return nil, fmt.Errorf("read the own keys: %w", err)
	}
	own := users[d.acct.user]
	d.noteOwn(own)
	return own, nil
}

// noteOwn records how the device stands in a snapshot of the own user.
func (d *Device) noteOwn(own *trustcache.User) {
	state := ownUnknown
	d.mu.Lock()
	defer d.mu.Unlock()
	switch own.CompareOwn(d.id, d.ed25519, d.curve25519) {
	case trustcache.OwnDeviceUnknown:
		return // keep what was known
	case trustcache.OwnDeviceAbsent:
		// Deleted and made again under the same ID, or lost by the homeserver: the same
		// keys are published again (requirement 2.7).
		d.record.row.KeysUploaded = false
		d.kickLocked()
	case trustcache.OwnDeviceForeign:
		state = ownReplaced // requirement 2.10
	case trustcache.OwnDeviceUnsigned:
		state = ownUnsigned
	case trustcache.OwnDeviceSigned:
		state = ownSigned
	}
	if state == ownUnsigned && own.Current == "" {
		state = ownNoIdentity
	}
	if (state == ownUnsigned || state == ownSigned) && !own.State().Accepted() {
		state = ownChanged
	}
	d.ownIdentity.own = state
	d.noteSignature(state, own.SelfSigning)
	if dev := own.Device(d.id); dev != nil && state != ownReplaced {
		if obj, err := parseObject(dev.Raw); err == nil {
			d.ownIdentity.serverKeys = obj.without("unsigned").encode()
		}
	}
}

func (d *Device) ownNow() ownState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ownIdentity.own
}

// createIdentity makes and publishes an identity. The private keys are stored first:
// after a crash the same ones are published, or found published.
func (d *Device) createIdentity(ctx context.Context, keys *crossSigning, auth UserAuth) (*trustcache.User, *crossSigning, error) {
	if keys == nil {
		made, err := newCrossSigning()
		if err != nil {
			return nil, nil, err
		}
		if err := d.save(ctx, &store.Changes{Secrets: made.secrets()}); err != nil {
			return nil, nil, fmt.Errorf("store new cross-signing keys: %w", err)
		}
		keys = made
	}
	// Said before it is published, so that nobody is alarmed when it appears.
	if _, err := d.acct.tracker.SetOwnIdentity(ctx, keys.master.PublicKey()); err != nil {
		return nil, nil, fmt.Errorf("trust the own identity: %w", err)
	}
	// To be asked for a password may mean that another client was quicker.
	stillNone := func(ctx context.Context) error {
		switch own, err := d.readOwn(ctx, true); {
		case err != nil:
			return err
		case own.Knowledge != trustcache.KnowledgeFresh:
			return errOwnUnknown
		case own.Current != "":
			return ErrIdentityExists
		}
		return nil
	}
	if err := d.publish(ctx, keys, auth, stillNone); err != nil {
		return nil, nil, err
	}
	own, err := d.readOwn(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	if own.Current != keys.master.PublicKey() {
		return nil, nil, errNotPublished
	}
	return own, keys, nil
}

var errNotPublished = errors.New("the homeserver does not show the identity that was published")

// mayConverse says whether the device may send encrypted messages: others show only
// those of devices that their owner has confirmed.
func (d *Device) mayConverse(ctx context.Context) error {
	if d.ownNow() != ownSigned {
		if err := d.uploadNow(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrCannotEncrypt, err)
		}
		if err := d.setUpIdentity(ctx); err != nil {
			d.eng.log.Warn().Err(err).Msg("The identity could not be set up before a send")
		}
		if d.ownNow() == ownUnknown {
			if _, err := d.readOwn(ctx, false); err != nil {
				return fmt.Errorf("%w: %w", ErrCannotEncrypt, err)
			}
		}
	}
	refusal := sendRefusal(d.ownNow(), d.acct.settings().AllowUnsigned, d.eng.opts.Policy().Send)
	if why := d.signatureTrouble(); errors.Is(refusal, ErrDeviceNotSigned) && why != nil && d.ownNow() == ownUnsigned {
		return why // what a device that is not signed is told to do does not help this one
	}
	return refusal
}

// sendRefusal says why a device may send nothing to encrypted rooms; nil when it may. That
// a device must be confirmed is not of the policy, which while it is on "warn" refuses
// nothing of its own: an account may still ask for it.
func sendRefusal(own ownState, allowUnsigned bool, policy trustcache.Mode) error {
	switch own {
	case ownSigned:
		return nil
	case ownReplaced:
		return ErrKeysReplaced
	case ownChanged:
		// Where unsigned devices may send the identity is still in question, which is the
		// policy's.
		if allowUnsigned && (policy == trustcache.ModeWarn || policy == trustcache.ModeOff) {
			return nil
		}
		return ErrDeviceNotSigned
	case ownNoIdentity, ownUnsigned:
		if allowUnsigned {
			return nil
		}
		return ErrDeviceNotSigned
	case ownUnknown:
	}
	return fmt.Errorf("%w: the own keys are not known", ErrCannotEncrypt)
}

// uploadNow publishes the device's keys if that has not happened yet.
func (d *Device) uploadNow(ctx context.Context) error {
	d.PublishWithin(0)
	d.mu.Lock()
	uploaded := d.record.row.KeysUploaded
	d.mu.Unlock()
	if uploaded {
		return nil
	}
	give, err := d.schedule.upkeep.take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	return d.uploadKeys(ctx)
}
