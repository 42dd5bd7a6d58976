package ownidentity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Identity handles the user's cross-signing identity and whether it signed this device.
type Identity struct {
	*core.Device
	acct *Account
	host Host

	serverKeys  json.RawMessage // our device keys as the homeserver shows them, with all signatures
	signedBy    id.Ed25519      // the self-signing key that signed them, while the state is Signed
	passedOn    id.Ed25519      // the one whose signature was uploaded with the keys, see PassOn
	confirmedAt time.Time       // when this process signed the device
	signature   signatureTrial
	changeSeq   int // counts the changes of the identity
	state       State
	checked     bool // the identity was checked, and nothing has changed since
	absent      bool // the homeserver does not show keys that it accepted: they are uploaded again
}

// Host is what Identity needs of the other parts of a device.
type Host interface {
	// CompleteBackup makes a key backup if the account has none, and otherwise looks for the
	// key of the existing one. It returns the private key if it is here. A nil storage is
	// secret storage whose key is not here.
	CompleteBackup(ctx context.Context, keys *identity.Keys, storage *ssss.Key, may Bootstrapping) ([]byte, error)
	// ReplaceBackup makes a new backup for a new identity, unless that is done, and returns
	// its private key.
	ReplaceBackup(ctx context.Context, keys *identity.Keys) ([]byte, error)
	// SetBackupStanding sets the state of the account's backup, ForgetBackup makes its next
	// use check its version again.
	SetBackupStanding(keybackup.Standing)
	ForgetBackup()

	// SignAsDevice adds the device's signature to an object.
	SignAsDevice(raw json.RawMessage) (json.RawMessage, error)
	// WantSecrets requests the secrets that are missing from the user's other devices.
	WantSecrets(ctx context.Context, own *trustcache.User) error
	// TellRecoveredAlone warns the user that an identity that was made elsewhere is about to
	// be accepted without a person.
	TellRecoveredAlone(ctx context.Context) error

	// KickLocked requests maintenance. The caller holds the device's lock.
	KickLocked()
	// RetrySignature requests maintenance after a pause, because the device's signature
	// failed, and DropSignatureRetry takes that back. The caller holds the device's lock.
	RetrySignature(pause time.Duration)
	DropSignatureRetry()
}

// New returns the identity as a device sees it, of which nothing is known yet.
func New(dev *core.Device, acct *Account, host Host) Identity {
	return Identity{Device: dev, acct: acct, host: host}
}

// State is the state of the device and its owner's identity, as read from the
// homeserver, never assumed. The zero value may not send.
type State uint8

const (
	// Unknown means that it was not read yet.
	Unknown State = iota
	// NoIdentity is a user without cross-signing keys.
	NoIdentity
	// Unsigned is a user whose identity has not signed this device, and whose private
	// keys are not here.
	Unsigned
	// Changed is an identity that replaced, elsewhere, the one that this account knew.
	// It is not trusted, even if it signed this device (attack A9).
	Changed
	// Replaced is a device for which the homeserver shows keys that are not ours.
	Replaced
	// Signed is a device signed by its owner's current identity.
	Signed
)

// SetUp makes an identity if there is none, recovers it if the configuration has
// what is needed, signs the device if the keys are here, and completes secret storage and
// backup. Every step checks what the homeserver has, so that it can be repeated after a
// crash anywhere (requirement 12.13).
func (o *Identity) SetUp(ctx context.Context) error {
	if o.IsChecked() && !o.signatureDue() {
		return nil
	}
	o.Mu.Lock()
	looked := o.changeSeq
	o.Mu.Unlock()
	password, given := o.acct.password.current()
	err := o.Bootstrap(ctx, core.UserAuth{Password: password}, Bootstrapping{Create: !o.Env.ManualBootstrap})
	var auth *wire.AuthNeededError
	if err != nil && !errors.As(err, &auth) && !errors.Is(err, core.ErrWrongPassword) && !signatureFailed(err) {
		return err
	}
	// Done, or a person must act: checked again when something changes.
	o.Mu.Lock()
	defer o.Mu.Unlock()
	o.checked = o.KeysTakenLocked() && o.state != Unknown && o.changeSeq == looked
	if o.checked && (o.state != NoIdentity || !o.Env.ManualBootstrap) { // else POST bootstrap may need it
		o.acct.password.forgetGiven(given)
	}
	return err
}

// RecheckLocked makes the next maintenance check the identity again. The caller
// holds mu.
func (o *Identity) RecheckLocked() {
	o.checked = false
	o.changeSeq++
	o.host.ForgetBackup()
	o.host.KickLocked()
}

// Recheck makes the next maintenance check the identity and the backup again.
func (o *Identity) Recheck() {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	o.RecheckLocked()
}

// IsChecked reports whether the identity was checked and nothing has changed since.
func (o *Identity) IsChecked() bool {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	return o.checked
}

// IsCheckedLocked is IsChecked for a caller that holds mu.
func (o *Identity) IsCheckedLocked() bool { return o.checked }

// KeepPasswordLocked keeps the password of a login if the identity may need it. The caller holds
// mu.
func (o *Identity) KeepPasswordLocked(password secret.Bytes) {
	if o.checked && o.state == Signed {
		return // nothing to do for it
	}
	o.acct.password.keep(password, o.ID)
	o.checked = false
	o.changeSeq++ // a bootstrap in progress does not have the password
	o.host.KickLocked()
}

// Bootstrapping says what a bootstrap may do.
type Bootstrapping struct {
	// create allows a new identity, secret storage or backup where there is none.
	Create bool
	// explicit means that a person asked for it: a deleted backup is made again.
	Explicit bool
}

// errOwnUnknown means that the own keys could not be read. Then nothing may be created: it
// might replace something.
var errOwnUnknown = errors.New("the own keys could not be read from the homeserver")

// Bootstrap does the work of SetUp.
func (o *Identity) Bootstrap(ctx context.Context, auth core.UserAuth, may Bootstrapping) error {
	if o.Mode != core.ModeProxied {
		return nil
	}
	o.Mu.Lock()
	uploaded := o.KeysTakenLocked()
	o.Mu.Unlock()
	if !uploaded {
		return nil // the upload requests maintenance
	}
	give, err := o.acct.boot.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	begun, err := o.acct.loadReset(ctx)
	if err != nil {
		return err
	}
	own, err := o.ReadOwn(ctx, true)
	switch {
	case err != nil:
		return err
	case own.Knowledge != trustcache.KnowledgeFresh:
		return errOwnUnknown
	case begun != nil && begun.Master.PublicKey() == own.Current:
		return o.finishReset(ctx, begun) // an earlier reset was interrupted
	}
	keys, err := o.fittingKeys(ctx, own)
	if err != nil {
		return err
	}
	var opened *ssss.Key
	switch {
	case own.Current == "" && !may.Create:
		return nil
	case own.Current == "":
		if own, keys, err = o.create(ctx, keys, auth); err != nil {
			return err
		}
	case keys == nil:
		if keys, opened, err = o.recoverAlone(ctx, own); err != nil {
			return err
		}
	}
	if keys == nil {
		return o.await(ctx, own)
	}
	if !own.State().Accepted() {
		// It changed elsewhere, and is about to be accepted without a person.
		if err := o.host.TellRecoveredAlone(ctx); err != nil {
			return err
		}
	}
	return o.adopt(ctx, own, keys, opened, may)
}

// await does what is possible with an identity whose keys are not here: its owner
// or another device may bring them.
func (o *Identity) await(ctx context.Context, own *trustcache.User) error {
	o.acct.setStorageStanding(StorageUnknown)
	if !own.Verified {
		o.host.SetBackupStanding(keybackup.StandingUnknown)
		return nil
	}
	if _, err := o.host.CompleteBackup(ctx, nil, nil, Bootstrapping{}); err != nil {
		return err
	}
	return o.host.WantSecrets(ctx, own)
}

// fittingKeys returns the private keys if all of them belong to the published identity;
// else nil. Those that do not belong are deleted: another client replaced the identity
// (requirement 12.12).
func (o *Identity) fittingKeys(ctx context.Context, own *trustcache.User) (*identity.Keys, error) {
	keys, err := o.acct.keysInPart(ctx)
	if err != nil {
		return nil, err
	}
	if own.Current == "" { // nothing is published yet
		return o.acct.Keys(ctx)
	}
	misfits := keys.Misfits(own)
	if len(misfits) == 0 {
		return o.acct.Keys(ctx)
	}
	if err := o.Save(ctx, &store.Changes{DeleteSecrets: misfits}); err != nil {
		return nil, fmt.Errorf("drop keys that do not belong to the identity: %w", err)
	}
	o.Env.Log.Warn().Stringer("account", o.acct.User).Int("keys", len(misfits)).
		Msg("The identity was replaced by another client; its old private keys were dropped")
	return o.acct.Keys(ctx)
}

// ReadOwn reads the own user's keys and updates the device's state. With again the
// homeserver is asked even if nothing is known to have changed.
func (o *Identity) ReadOwn(ctx context.Context, again bool) (*trustcache.User, error) {
	ask := o.acct.Tracker.Lookup
	if again {
		ask = o.acct.Tracker.Query
	}
	o.Mu.Lock()
	taken := o.KeysTakenLocked()
	o.Mu.Unlock()
	users, err := ask(ctx, o.Query(), []id.UserID{o.acct.User})
	if err != nil {
		return nil, fmt.Errorf("read the own keys: %w", err)
	}
	own := users[o.acct.User]
	o.updateState(own, taken)
	return own, nil
}

// KeysTakenLocked reports whether the homeserver accepted the device's keys and still has
// them. The caller holds mu.
func (o *Identity) KeysTakenLocked() bool { return o.Record.Row.KeysUploaded && !o.absent }

// KeysWereTakenLocked records that it accepted them. The caller holds mu.
func (o *Identity) KeysWereTakenLocked() {
	if o.absent {
		o.absent, o.passedOn = false, ""
	}
}

// updateState sets the device's state by a snapshot of the own user. taken says that the homeserver
// had the device's keys before it was asked: an answer from before their upload does not show them.
func (o *Identity) updateState(own *trustcache.User, taken bool) {
	state := Unknown
	o.Mu.Lock()
	defer o.Mu.Unlock()
	switch own.CompareOwn(o.ID, o.Ed25519, o.Curve25519) {
	case trustcache.OwnDeviceUnknown:
		return // the last state stays
	case trustcache.OwnDeviceAbsent:
		// Deleted and created again with the same ID, or lost by the homeserver: the same
		// keys are published again (requirement 2.7).
		o.absent = o.absent || taken
		o.host.KickLocked()
	case trustcache.OwnDeviceForeign:
		state = Replaced // requirement 2.10
	case trustcache.OwnDeviceUnsigned:
		state = Unsigned
	case trustcache.OwnDeviceSigned:
		state = Signed
	}
	if state == Unsigned && own.Current == "" {
		state = NoIdentity
	}
	if (state == Unsigned || state == Signed) && !own.State().Accepted() {
		state = Changed
	}
	if o.state = state; state == Signed {
		o.signedBy = own.SelfSigning
	}
	o.endSignatureTrial(state, own.SelfSigning)
	if dev := own.Device(o.ID); dev != nil && state != Replaced {
		if obj, err := strictjson.Parse(dev.Raw); err == nil {
			o.serverKeys = obj.Without("unsigned").Encode()
		}
	}
}

// State returns the state of the device and its owner's identity.
func (o *Identity) State() State {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	return o.state
}

// StateLocked is State for a caller that holds mu.
func (o *Identity) StateLocked() State { return o.state }

// SignedAtLocked returns when this process signed the device; zero when it did not. The caller
// holds mu.
func (o *Identity) SignedAtLocked() time.Time { return o.confirmedAt }

// create makes and publishes an identity. The private keys are stored first: after
// a crash the same ones are published, or found published.
func (o *Identity) create(ctx context.Context, keys *identity.Keys, auth core.UserAuth) (*trustcache.User, *identity.Keys, error) {
	if keys == nil {
		made, err := identity.NewKeys()
		if err != nil {
			return nil, nil, err
		}
		done := auditing.Of(o.Device, audit.KindBootstrap, "master key "+made.Master.PublicKey().String())
		if err := o.Save(ctx, &store.Changes{Secrets: made.SecretsMadeHere(), Audit: done}); err != nil {
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
		switch own, err := o.ReadOwn(ctx, true); {
		case err != nil:
			return err
		case own.Knowledge != trustcache.KnowledgeFresh:
			return errOwnUnknown
		case own.Current != "":
			return core.ErrIdentityExists
		}
		return nil
	}
	if err := o.upload(ctx, keys, auth, stillNone); err != nil {
		return nil, nil, err
	}
	own, err := o.ReadOwn(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	if own.Current != keys.Master.PublicKey() {
		return nil, nil, errIdentityNotShown
	}
	return own, keys, nil
}

var errIdentityNotShown = errors.New("the homeserver does not show the identity that was published")

// ShownKeysLocked returns the device's keys as the homeserver shows them, nil before it does. The
// caller holds mu.
func (o *Identity) ShownKeysLocked() json.RawMessage { return o.serverKeys }
