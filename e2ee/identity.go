package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// ownIdentity handles the user's cross-signing identity and whether it signed this device.
type ownIdentity struct {
	*part
	host ownIdentityHost

	serverKeys  json.RawMessage // our device keys as the homeserver shows them, with all signatures
	own         ownState
	absent      bool      // the homeserver does not show keys that it accepted: they are uploaded again
	confirmedAt time.Time // when this process signed the device
	signature   signatureTrial
	checked     bool // the identity was checked, and nothing has changed since
	changeSeq   int  // counts the changes
}

// ownIdentityHost is what ownIdentity needs of the other parts.
type ownIdentityHost interface {
	completeBackup(ctx context.Context, keys *identity.Keys, storage *ssss.Key, may bootstrapping) ([]byte, error)
	createBackup(ctx context.Context, key *backup.MegolmBackupKey, keys *identity.Keys) error
	currentBackup(ctx context.Context) (*keybackup.Version, error)
	dropRetry(why retryFor)
	kickLocked()
	newBackupKey(ctx context.Context) (*backup.MegolmBackupKey, error)
	retryLocked(why retryFor, pause time.Duration)
	signAsDevice(raw json.RawMessage) (json.RawMessage, error)
	tellRecoveredAlone(ctx context.Context) error
	wantBackup(ctx context.Context) error
	WantSecrets(ctx context.Context, own *trustcache.User) error
}

// ownState is the state of the device and its owner's identity, as read from the
// homeserver, never assumed. The zero value may not send.
type ownState int

const (
	// ownUnknown means that it was not read yet.
	ownUnknown ownState = iota
	// ownNoIdentity is a user without cross-signing keys.
	ownNoIdentity
	// ownUnsigned is a user whose identity has not signed this device, and whose private
	// keys are not here.
	ownUnsigned
	// ownChanged is an identity that replaced, elsewhere, the one that this account knew.
	// It is not trusted, even if it signed this device (attack A9).
	ownChanged
	// ownReplaced is a device for which the homeserver shows keys that are not ours.
	ownReplaced
	// ownSigned is a device signed by its owner's current identity.
	ownSigned
)

// setUpIdentity makes an identity if there is none, recovers it if the configuration has
// what is needed, signs the device if the keys are here, and completes secret storage and
// backup. Every step checks what the homeserver has, so that it can be repeated after a
// crash anywhere (requirement 12.13).
func (o *ownIdentity) setUpIdentity(ctx context.Context) error {
	if o.identityChecked() && !o.signatureDue() {
		return nil
	}
	o.Mu.Lock()
	looked := o.changeSeq
	o.Mu.Unlock()
	password, given := o.acct.password.current()
	err := o.bootstrap(ctx, core.UserAuth{Password: password}, bootstrapping{create: !o.Env.ManualBootstrap})
	var auth *wire.AuthNeededError
	if err != nil && !errors.As(err, &auth) && !errors.Is(err, core.ErrWrongPassword) && !signatureFailed(err) {
		return err
	}
	// Done, or a person must act: checked again when something changes.
	o.Mu.Lock()
	defer o.Mu.Unlock()
	o.checked = o.deviceKeysTaken() && o.own != ownUnknown && o.changeSeq == looked
	if o.checked && (o.own != ownNoIdentity || !o.Env.ManualBootstrap) { // else POST bootstrap may need it
		o.acct.password.forgetGiven(given)
	}
	return err
}

// recheckIdentityLocked makes the next maintenance check the identity again. The caller
// holds mu.
func (o *ownIdentity) recheckIdentityLocked() {
	o.checked = false
	o.changeSeq++
	o.acct.forgetBackup()
	o.host.kickLocked()
}

// bootstrapping says what a bootstrap may do.
type bootstrapping struct {
	// create allows a new identity, secret storage or backup where there is none.
	create bool
	// explicit means that a person asked for it: a deleted backup is made again.
	explicit bool
}

// errOwnUnknown means that the own keys could not be read. Then nothing may be created: it
// might replace something.
var errOwnUnknown = errors.New("the own keys could not be read from the homeserver")

// bootstrap does the work of setUpIdentity.
func (o *ownIdentity) bootstrap(ctx context.Context, auth core.UserAuth, may bootstrapping) error {
	if o.Mode != core.ModeProxied {
		return nil
	}
	o.Mu.Lock()
	uploaded := o.deviceKeysTaken()
	o.Mu.Unlock()
	if !uploaded {
		return nil // the upload requests maintenance
	}
	give, err := o.acct.boot.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	resetting, err := o.acct.loadReset(ctx)
	if err != nil {
		return err
	}
	own, err := o.readOwn(ctx, true)
	switch {
	case err != nil:
		return err
	case own.Knowledge != trustcache.KnowledgeFresh:
		return errOwnUnknown
	case resetting != nil && resetting.Master.PublicKey() == own.Current:
		return o.finishReset(ctx, resetting) // an earlier reset was interrupted
	}
	keys, err := o.fittingKeys(ctx, own)
	if err != nil {
		return err
	}
	var opened *ssss.Key
	switch {
	case own.Current == "" && !may.create:
		return nil
	case own.Current == "":
		if own, keys, err = o.createIdentity(ctx, keys, auth); err != nil {
			return err
		}
	case keys == nil:
		if keys, opened, err = o.recoverAlone(ctx, own); err != nil {
			return err
		}
	}
	if keys == nil {
		return o.awaitIdentity(ctx, own)
	}
	if !own.State().Accepted() {
		// It changed elsewhere, and is about to be accepted without a person.
		if err := o.host.tellRecoveredAlone(ctx); err != nil {
			return err
		}
	}
	return o.adoptIdentity(ctx, own, keys, opened, may)
}

// awaitIdentity does what is possible with an identity whose keys are not here: its owner
// or another device may bring them.
func (o *ownIdentity) awaitIdentity(ctx context.Context, own *trustcache.User) error {
	o.acct.setStorageStanding(storageUnknown)
	if !own.Verified {
		o.acct.setBackupStanding(backupUnknown)
		return nil
	}
	if _, err := o.host.completeBackup(ctx, nil, nil, bootstrapping{}); err != nil {
		return err
	}
	return o.host.WantSecrets(ctx, own)
}

// fittingKeys returns the private keys if all of them belong to the published identity;
// else nil. Those that do not belong are deleted: another client replaced the identity
// (requirement 12.12).
func (o *ownIdentity) fittingKeys(ctx context.Context, own *trustcache.User) (*identity.Keys, error) {
	keys, err := o.acct.loadParts(ctx)
	if err != nil {
		return nil, err
	}
	if own.Current == "" { // nothing is published yet
		return o.acct.loadCrossSigning(ctx)
	}
	misfits := keys.Misfits(own)
	if len(misfits) == 0 {
		return o.acct.loadCrossSigning(ctx)
	}
	if err := o.Save(ctx, &store.Changes{DeleteSecrets: misfits}); err != nil {
		return nil, fmt.Errorf("drop keys that do not belong to the identity: %w", err)
	}
	o.Env.Log.Warn().Stringer("account", o.acct.User).Int("keys", len(misfits)).
		Msg("The identity was replaced by another client; its old private keys were dropped")
	return o.acct.loadCrossSigning(ctx)
}

// readOwn reads the own user's keys and updates the device's state. With again the
// homeserver is asked even if nothing is known to have changed.
func (o *ownIdentity) readOwn(ctx context.Context, again bool) (*trustcache.User, error) {
	ask := o.acct.Tracker.Lookup
	if again {
		ask = o.acct.Tracker.Query
	}
	users, err := ask(ctx, o.Query(), []id.UserID{o.acct.User})
	if err != nil {
		return nil, fmt.Errorf("read the own keys: %w", err)
	}
	own := users[o.acct.User]
	o.updateOwnState(own)
	return own, nil
}

// deviceKeysTaken reports whether the homeserver accepted the device's keys and still has
// them. The caller holds mu.
func (o *ownIdentity) deviceKeysTaken() bool { return o.Record.Row.KeysUploaded && !o.absent }

// deviceKeysWereTaken records that it accepted them. The caller holds mu.
func (o *ownIdentity) deviceKeysWereTaken() { o.absent = false }

// updateOwnState sets the device's state by a snapshot of the own user.
func (o *ownIdentity) updateOwnState(own *trustcache.User) {
	state := ownUnknown
	o.Mu.Lock()
	defer o.Mu.Unlock()
	switch own.CompareOwn(o.ID, o.Ed25519, o.Curve25519) {
	case trustcache.OwnDeviceUnknown:
		return // the last state stays
	case trustcache.OwnDeviceAbsent:
		// Deleted and created again with the same ID, or lost by the homeserver: the same
		// keys are published again (requirement 2.7).
		o.absent = o.Record.Row.KeysUploaded
		o.host.kickLocked()
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
	o.own = state
	o.endSignatureTrial(state, own.SelfSigning)
	if dev := own.Device(o.ID); dev != nil && state != ownReplaced {
		if obj, err := strictjson.Parse(dev.Raw); err == nil {
			o.serverKeys = obj.Without("unsigned").Encode()
		}
	}
}

func (o *ownIdentity) ownNow() ownState {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	return o.own
}

// createIdentity makes and publishes an identity. The private keys are stored first: after
// a crash the same ones are published, or found published.
func (o *ownIdentity) createIdentity(ctx context.Context, keys *identity.Keys, auth core.UserAuth) (*trustcache.User, *identity.Keys, error) {
	if keys == nil {
		made, err := identity.NewKeys()
		if err != nil {
			return nil, nil, err
		}
		if err := o.Save(ctx, &store.Changes{Secrets: made.Secrets()}); err != nil {
			return nil, nil, fmt.Errorf("store new cross-signing keys: %w", err)
		}
		keys = made
	}
	// The tracker is told before publication, so that it raises no alarm.
	if _, err := o.acct.Tracker.SetOwnIdentity(ctx, keys.Master.PublicKey()); err != nil {
		return nil, nil, fmt.Errorf("trust the own identity: %w", err)
	}
	// Being asked for a password may mean that another client published an identity first.
	stillNone := func(ctx context.Context) error {
		switch own, err := o.readOwn(ctx, true); {
		case err != nil:
			return err
		case own.Knowledge != trustcache.KnowledgeFresh:
			return errOwnUnknown
		case own.Current != "":
			return core.ErrIdentityExists
		}
		return nil
	}
	if err := o.uploadIdentity(ctx, keys, auth, stillNone); err != nil {
		return nil, nil, err
	}
	own, err := o.readOwn(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	if own.Current != keys.Master.PublicKey() {
		return nil, nil, errIdentityNotShown
	}
	return own, keys, nil
}

var errIdentityNotShown = errors.New("the homeserver does not show the identity that was published")

// checkMaySend returns why the device may not send encrypted messages, nil when it may. It
// publishes keys and sets the identity up first, if need be. Others show only messages of
// devices that their owner has confirmed.
func (d *Device) checkMaySend(ctx context.Context) error {
	if d.ownIdentity.ownNow() != ownSigned {
		if err := d.uploadNow(ctx); err != nil {
			return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
		}
		if err := d.ownIdentity.setUpIdentity(ctx); err != nil {
			d.core.Env.Log.Warn().Err(err).Msg("The identity could not be set up before a send")
		}
		if d.ownIdentity.ownNow() == ownUnknown {
			if _, err := d.ownIdentity.readOwn(ctx, false); err != nil {
				return fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
			}
		}
	}
	refusal := sendRefusal(d.ownIdentity.ownNow(), d.acct.Settings().AllowUnsigned, d.core.Env.Policy().Send)
	if why := d.ownIdentity.signatureTrouble(); errors.Is(refusal, core.ErrDeviceNotSigned) && why != nil && d.ownIdentity.ownNow() == ownUnsigned {
		return why // the advice for an unsigned device does not help here
	}
	return refusal
}

// sendRefusal returns why a device may send nothing to encrypted rooms; nil when it may.
// That a device must be confirmed is an account setting, not part of the policy: it also
// holds while the policy is on "warn".
func sendRefusal(own ownState, allowUnsigned bool, policy trustcache.Mode) error {
	switch own {
	case ownSigned:
		return nil
	case ownReplaced:
		return core.ErrKeysReplaced
	case ownChanged:
		// If unsigned devices may send, the policy still decides about the identity.
		if allowUnsigned && (policy == trustcache.ModeWarn || policy == trustcache.ModeOff) {
			return nil
		}
		return core.ErrDeviceNotSigned
	case ownNoIdentity, ownUnsigned:
		if allowUnsigned {
			return nil
		}
		return core.ErrDeviceNotSigned
	case ownUnknown:
	}
	return fmt.Errorf("%w: the own keys are not known", core.ErrCannotEncrypt)
}

// uploadNow publishes the device's keys if that has not happened yet.
func (d *Device) uploadNow(ctx context.Context) error {
	d.publication.publishWithin(0)
	d.core.Mu.Lock()
	uploaded := d.ownIdentity.deviceKeysTaken()
	d.core.Mu.Unlock()
	if uploaded {
		return nil
	}
	give, err := d.schedule.upkeep.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	return d.uploadKeys(ctx)
}

// shownKeys returns the device's keys as the homeserver shows them, nil before it does. The
// caller holds mu.
func (o *ownIdentity) shownKeys() json.RawMessage { return o.serverKeys }
