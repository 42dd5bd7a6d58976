package e2ee

import (
	"context"
	"encoding/json"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/trustcache"
)

// String gives the name the control API uses.
func (m Mode) String() string {
	switch m {
	case ModeUnknown:
		return "unknown"
	case ModeProxied:
		return "proxied"
	case ModeForeign:
		return "foreign"
	case ModeNone:
		return "none"
	default:
		return "invalid"
	}
}

// Status is how a device and its owner's identity stand, read back from the
// homeserver, not assumed.
type Status struct {
	UserID        id.UserID      `json:"user_id"`
	DeviceID      id.DeviceID    `json:"device_id,omitempty"`
	Mode          string         `json:"mode"`
	Keys          DeviceKeys     `json:"keys"`
	Identity      IdentityStatus `json:"identity"`
	SecretStorage StorageStatus  `json:"secret_storage"`
	Backup        BackupStatus   `json:"backup"`
	// OtherDevices are the user's other devices that hold keys.
	OtherDevices []DeviceTrust `json:"other_devices"`
	Overrides    []UserDevice  `json:"overrides"`
	Problems     []Problem     `json:"problems"`
	Warnings     []Warning     `json:"warnings"`
}

// DeviceKeys are the public keys of the device, empty when the proxy holds none.
type DeviceKeys struct {
	Ed25519    id.Ed25519    `json:"ed25519,omitempty"`
	Curve25519 id.Curve25519 `json:"curve25519,omitempty"`
}

// IdentityStatus tells of the user's own identity.
type IdentityStatus struct {
	// MasterKey is the published one, empty when there is none.
	MasterKey id.Ed25519 `json:"master_key,omitempty"`
	// Ours says that the proxy holds the private keys that belong to it.
	Ours bool `json:"ours"`
	// DeviceSigned says that this device carries a valid signature of it.
	DeviceSigned bool `json:"device_signed"`
}

// StorageStatus tells of secret storage.
type StorageStatus struct {
	DefaultKey string `json:"default_key,omitempty"`
	// Complete says that the default key encrypts all that belongs there (requirements 1.4, 1.5).
	Complete bool `json:"complete"`
}

// BackupStatus tells of key backup.
type BackupStatus struct {
	Version string `json:"version,omitempty"`
	// Trusted says that its public key belongs to a private key we hold (requirement 16.1).
	Trusted bool `json:"trusted"`
	// Pending is the number of room keys still to be uploaded.
	Pending int `json:"pending"`
}

// Problem is one thing that is not in order, and what to do about it.
type Problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

// DeviceTrust is one device of a user.
type DeviceTrust struct {
	DeviceID id.DeviceID `json:"device_id"`
	Signed   bool        `json:"signed"`
	// Override is the explicit exception: true trusted, false distrusted, nil none.
	Override *bool `json:"override"`
}

// UserDevice names a device with an explicit exception.
type UserDevice struct {
	UserID   id.UserID   `json:"user_id"`
	DeviceID id.DeviceID `json:"device_id"`
}

// Status reads how things stand. Parts that could not be read are problems, not errors.
func (d *Device) Status(ctx context.Context) (Status, error) {
	out := Status{
		DeviceID: d.id, Mode: d.mode.String(), OtherDevices: []DeviceTrust{}, Overrides: []UserDevice{},
		Problems: []Problem{}, Warnings: []Warning{},
	}
	if d.acct != nil {
		out.UserID = d.acct.user
	}
	switch d.mode {
	case ModeForeign:
		out.Problems = append(out.Problems, problemForeign)
		return out, nil
	case ModeNone:
		out.Problems = append(out.Problems, problemNoDevice)
		return out, nil
	case ModeUnknown:
		return out, nil
	case ModeProxied:
	}
	out.Keys = DeviceKeys{d.ed25519, d.curve25519}
	keys, err := d.acct.loadCrossSigning(ctx)
	if err != nil {
		return Status{}, err
	}
	own, err := d.readOwn(ctx, true)
	if err != nil {
		return Status{}, err
	}
	d.identityStatus(&out, own, keys)
	if err := d.storageStatus(ctx, &out); err != nil {
		out.Problems = append(out.Problems, unreadable("secret storage"))
	}
	if err := d.backupStatus(ctx, &out); err != nil {
		out.Problems = append(out.Problems, unreadable("the key backup"))
	}
	pending, err := d.warnings(ctx)
	if err != nil {
		return Status{}, err
	}
	out.Warnings = append(out.Warnings, pending...)
	return out, nil
}

func (d *Device) identityStatus(out *Status, own *trustcache.User, keys *crossSigning) {
	if !own.Known() {
		out.Problems = append(out.Problems, unreadable("the own devices"))
		return
	}
	out.Identity = IdentityStatus{
		MasterKey:    own.Current,
		Ours:         keys != nil && own.Current == keys.master.PublicKey(),
		DeviceSigned: d.ownNow() == ownSigned,
	}
	for i := range own.Devices {
		if dev := &own.Devices[i]; dev.DeviceID != d.id && dev.Fault != trustcache.FaultNoKeys {
			out.OtherDevices = append(out.OtherDevices, deviceTrust(dev))
		}
	}
	switch d.ownNow() {
	case ownSigned, ownUnknown:
	case ownNoIdentity:
		out.Problems = append(out.Problems, problemNoIdentity)
	case ownUnsigned:
		out.Problems = append(out.Problems, problemUnsigned)
	case ownReplaced:
		out.Problems = append(out.Problems, problemReplaced)
	}
}

func deviceTrust(dev *trustcache.Device) DeviceTrust {
	out := DeviceTrust{DeviceID: dev.DeviceID, Signed: dev.Signed}
	switch dev.Override {
	case trustcache.OverrideNone:
	case trustcache.OverrideTrusted:
		yes := true
		out.Override = &yes
	case trustcache.OverrideDistrusted:
		no := false
		out.Override = &no
	}
	return out
}

func (d *Device) storageStatus(ctx context.Context, out *Status) error {
	raw, err := d.accountData(ctx, accountDataDefaultKey)
	if err != nil {
		return err
	}
	var def struct {
		Key string `json:"key"`
	}
	if raw == nil || json.Unmarshal(raw, &def) != nil || def.Key == "" {
		out.Problems = append(out.Problems, problemNoStorage)
		return nil
	}
	out.SecretStorage = StorageStatus{DefaultKey: def.Key, Complete: true}
	for _, name := range []string{secretMaster, secretSelfSigning, secretUserSigning} {
		raw, err := d.accountData(ctx, name)
		if err != nil {
			return err
		}
		var content struct {
			Encrypted map[string]json.RawMessage `json:"encrypted"`
		}
		if raw == nil || json.Unmarshal(raw, &content) != nil || content.Encrypted[def.Key] == nil {
			out.SecretStorage.Complete = false
		}
	}
	if !out.SecretStorage.Complete {
		out.Problems = append(out.Problems, problemStorageIncomplete)
	}
	return nil
}

func (d *Device) backupStatus(ctx context.Context, out *Status) error {
	current, err := d.currentBackup(ctx)
	if err != nil {
		return err
	}
	if current == nil {
		out.Problems = append(out.Problems, problemNoBackup)
		return nil
	}
	key, err := d.acct.loadBackupKey(ctx)
	if err != nil {
		return err
	}
	out.Backup = BackupStatus{Version: current.Version, Trusted: current.trusts(key)}
	if !out.Backup.Trusted {
		out.Problems = append(out.Problems, problemBackupNotOurs)
		return nil
	}
	if out.Backup.Pending, err = d.eng.store.CountToBackUp(ctx, d.acct.row, d.rowID, current.Version); err != nil {
		return fmt.Errorf("count room keys to back up: %w", err)
	}
	return nil
}

func unreadable(what string) Problem {
	return Problem{"unreadable", "The homeserver did not say how " + what + " stands.", "Try again in a while."}
}

// The problems that Status names.
var (
	problemForeign = Problem{
		"device_has_own_keys", "This device published encryption keys that the proxy does not hold, so the proxy passes it through untouched.",
		"If the client does its own encryption, all is well. Otherwise log in again, so that the client gets a new device.",
	}
	problemNoDevice = Problem{
		"no_device", "This access token belongs to no device, so there can be no encryption keys for it.",
		"Log in as a user to get a token with a device.",
	}
	problemNoIdentity = Problem{
		"no_identity", "The account has no digital identity yet, so others cannot tell that this device is yours.",
		"POST /_e2ee_proxy/v1/bootstrap, with your password if the homeserver asks for it.",
	}
	problemUnsigned = Problem{
		"device_not_signed", "Your digital identity has not confirmed this device. Others would not show its messages.",
		"POST /_e2ee_proxy/v1/recover with your recovery key, or POST /_e2ee_proxy/v1/reset for a new identity.",
	}
	problemReplaced = Problem{
		"keys_replaced", "The homeserver shows other keys for this device than the proxy holds. Nothing is sent from it.",
		"Log this device out and log in again. If nobody replaced the keys, talk to the administrator of the homeserver.",
	}
	problemNoStorage = Problem{
		"secret_storage_missing", "The account has no secret storage, so your identity cannot be recovered on another device.",
		"POST /_e2ee_proxy/v1/bootstrap.",
	}
	problemStorageIncomplete = Problem{
		"secret_storage_incomplete", "Secret storage does not hold your whole identity.",
		"POST /_e2ee_proxy/v1/recover with your recovery key.",
	}
	problemNoBackup = Problem{
		"backup_missing", "Your message keys are not backed up.",
		"POST /_e2ee_proxy/v1/bootstrap.",
	}
	problemBackupNotOurs = Problem{
		"backup_broken", "There is a key backup that the proxy cannot check, so nothing is written to it.",
		"POST /_e2ee_proxy/v1/recover with your recovery key.",
	}
)

// Bootstrap creates what is missing and gives the recovery key, if this or an earlier
// bootstrap made one. It never replaces an identity.
func (d *Device) Bootstrap(ctx context.Context, auth UserAuth) (secret.String, error) {
	if d.mode != ModeProxied {
		return secret.String{}, ErrNotProxied
	}
	if err := d.uploadNow(ctx); err != nil {
		return secret.String{}, err
	}
	if auth.Password.IsZero() {
		auth.Password = d.acct.takePassword()
	}
	if err := d.bootstrap(ctx, auth, true); err != nil {
		return secret.String{}, err
	}
	switch d.ownNow() {
	case ownSigned:
	case ownUnsigned:
		return secret.String{}, ErrIdentityExists
	case ownReplaced:
		return secret.String{}, ErrKeysReplaced
	case ownUnknown, ownNoIdentity:
		return secret.String{}, ErrCannotEncrypt
	}
	return d.acct.recoveryKey(ctx)
}
