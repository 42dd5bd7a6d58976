package e2ee

import (
	"context"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// recoveryKeyFor is how long the control API returns the recovery key of a bootstrap: a
// stolen token must not give away the identity for ever.
const recoveryKeyFor = 24 * time.Hour

// secretRecoveryRead is stored once the user has deleted the recovery key from the API.
const secretRecoveryRead = "recovery_key_deleted"

// Bootstrap creates what is missing of identity, secret storage and backup. It returns the
// recovery key if this or an earlier call made one that can still be read, else an empty
// one. It never replaces an identity.
func (d *Device) Bootstrap(ctx context.Context, auth core.UserAuth) (secret.String, error) {
	if d.core.Mode != core.ModeProxied {
		return secret.String{}, core.ErrNotProxied
	}
	ctx, cancel := d.core.DetachUntilStop(ctx)
	defer cancel()
	if err := d.uploadNow(ctx); err != nil {
		return secret.String{}, err
	}
	auth, spent := d.acct.withLoginPassword(auth)
	err := d.ownIdentity.bootstrap(ctx, auth, bootstrapping{create: true, explicit: true})
	spent(err)
	if err != nil {
		return secret.String{}, err
	}
	switch d.ownIdentity.ownNow() {
	case ownSigned:
	case ownUnsigned, ownChanged:
		return secret.String{}, core.ErrIdentityExists
	case ownReplaced:
		return secret.String{}, core.ErrKeysReplaced
	case ownUnknown, ownNoIdentity:
		return secret.String{}, core.ErrCannotEncrypt
	}
	d.recheckNow(ctx)
	key, err := d.RecoveryKey(ctx)
	if errors.Is(err, core.ErrNoRecoveryKey) {
		return secret.String{}, nil
	}
	return key, err
}

// RecoveryKey returns the recovery key that a bootstrap made, for 24 hours and until the
// user deletes it.
func (d *Device) RecoveryKey(ctx context.Context) (secret.String, error) {
	if d.core.Mode != core.ModeProxied {
		return secret.String{}, core.ErrNotProxied
	}
	made, err := d.core.Env.Store.Secret(ctx, d.acct.Row, identity.SecretStorageKey)
	if errors.Is(err, store.ErrNotFound) {
		return secret.String{}, core.ErrNoRecoveryKey
	}
	if err != nil {
		return secret.String{}, fmt.Errorf("load the recovery key: %w", err)
	}
	_, err = d.core.Env.Store.Secret(ctx, d.acct.Row, secretRecoveryRead)
	switch {
	case err == nil, d.core.Env.Now().Sub(made.CreatedAt) > recoveryKeyFor:
		return secret.String{}, core.ErrNoRecoveryKey
	case !errors.Is(err, store.ErrNotFound):
		return secret.String{}, fmt.Errorf("load the recovery key: %w", err)
	}
	// Without the identity the key is useless: another identity took its place.
	if keys, err := d.acct.loadCrossSigning(ctx); err != nil {
		return secret.String{}, err
	} else if keys == nil {
		return secret.String{}, core.ErrNoRecoveryKey
	}
	return d.acct.recoveryKey(ctx)
}

// DeleteRecoveryKey makes the key unreadable through the API. The key stays stored, sealed,
// for the machine's administrator.
func (d *Device) DeleteRecoveryKey(ctx context.Context) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	row := store.Secret{Name: secretRecoveryRead, Value: secret.Bytes("1"), CreatedAt: d.core.Env.Now()}
	if err := d.core.Save(ctx, &store.Changes{Secrets: []store.Secret{row}}); err != nil {
		return fmt.Errorf("delete the recovery key: %w", err)
	}
	return nil
}

// RecoveryKeyOnMachine returns the recovery key of an account, whatever its age, to
// somebody who can open the database.
func RecoveryKeyOnMachine(ctx context.Context, db *store.DB, user id.UserID) (secret.String, error) {
	row, err := db.LookupAccount(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return secret.String{}, core.ErrUnknownUser
	}
	if err != nil {
		return secret.String{}, fmt.Errorf("load account: %w", err)
	}
	return (&account{Account: &core.Account{Env: &core.Env{Store: db}, Row: row, User: user}}).recoveryKey(ctx)
}

// UserTrust is what is known of a user.
type UserTrust struct {
	UserID           id.UserID     `json:"user_id"`
	State            string        `json:"state"`
	PinnedMasterKey  id.Ed25519    `json:"pinned_master_key"`
	CurrentMasterKey id.Ed25519    `json:"current_master_key"`
	Devices          []DeviceTrust `json:"devices"`
}

// User returns what is known of a user. The homeserver is asked if that may be out of date.
func (d *Device) User(ctx context.Context, user id.UserID) (UserTrust, error) {
	if d.core.Mode != core.ModeProxied {
		return UserTrust{}, core.ErrNotProxied
	}
	users, err := d.acct.Tracker.Lookup(ctx, d.core.Query(), []id.UserID{user})
	if err != nil {
		return UserTrust{}, fmt.Errorf("look up a user: %w", err)
	}
	u := users[user]
	if !u.Known() {
		return UserTrust{}, core.ErrUnknownUser
	}
	out := UserTrust{
		UserID: user, State: u.State().String(), PinnedMasterKey: u.PinnedMaster, CurrentMasterKey: u.Current,
		Devices: []DeviceTrust{},
	}
	for i := range u.Devices {
		if u.Devices[i].Fault != trustcache.FaultNoKeys { // requirement 1.19
			out.Devices = append(out.Devices, deviceTrust(&u.Devices[i]))
		}
	}
	return out, nil
}

// Acknowledge accepts a changed identity.
func (d *Device) Acknowledge(ctx context.Context, user id.UserID, master id.Ed25519) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	if err := d.lookUp(ctx, user); err != nil {
		return err
	}
	return controlReason(d.acct.Tracker.Acknowledge(ctx, user, master))
}

// lookUp updates what is known of a user from the homeserver, if it answers.
func (d *Device) lookUp(ctx context.Context, user id.UserID) error {
	if _, err := d.acct.Tracker.Lookup(ctx, d.core.Query(), []id.UserID{user}); err != nil {
		return fmt.Errorf("look up a user: %w", err)
	}
	return nil
}

// WithdrawVerification withdraws the verification of a user whose identity changed.
func (d *Device) WithdrawVerification(ctx context.Context, user id.UserID) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	return controlReason(d.acct.Tracker.Withdraw(ctx, user))
}

// SetOverride sets the explicit exception for a device; nil removes it.
func (d *Device) SetOverride(ctx context.Context, user id.UserID, device id.DeviceID, trusted *bool) error {
	if d.core.Mode != core.ModeProxied {
		return core.ErrNotProxied
	}
	if err := d.lookUp(ctx, user); err != nil {
		return err
	}
	override := trustcache.OverrideNone
	if trusted != nil && *trusted {
		override = trustcache.OverrideTrusted
	} else if trusted != nil {
		override = trustcache.OverrideDistrusted
	}
	return controlReason(d.acct.Tracker.SetOverride(ctx, user, device, override))
}

// controlReason returns the control API's error for an error of trustcache.
func controlReason(err error) error {
	for reason, answer := range map[error]error{
		trustcache.ErrNoIdentity: core.ErrUnknownUser, trustcache.ErrNotCurrent: core.ErrMasterKeyNotCurrent,
		trustcache.ErrVerificationLost: core.ErrVerificationLost, trustcache.ErrNothingToWithdraw: core.ErrNotVerified,
		trustcache.ErrNoDevice: core.ErrUnknownDevice,
	} {
		if errors.Is(err, reason) {
			return fmt.Errorf("%w: %w", answer, err)
		}
	}
	return err
}
