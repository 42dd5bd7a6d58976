package e2ee

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/trustcache"
)

// Status is the state of a device and its owner's identity, as read from the homeserver,
// not assumed.
type Status struct {
	UserID        id.UserID      `json:"user_id"`
	DeviceID      id.DeviceID    `json:"device_id,omitempty"`
	Mode          string         `json:"mode"`
	Keys          DeviceKeys     `json:"keys"`
	Identity      IdentityStatus `json:"identity"`
	SecretStorage StorageStatus  `json:"secret_storage"`
	Backup        BackupStatus   `json:"backup"`
	// OtherDevices are the user's other devices that have keys.
	OtherDevices []DeviceTrust `json:"other_devices"`
	Overrides    []UserDevice  `json:"overrides"`
	// Policy is nil for a device whose keys the proxy does not hold.
	Policy   *PolicyStatus `json:"policy,omitempty"`
	Problems []Problem     `json:"problems"`
	Warnings []Warning     `json:"warnings"`
}

// DeviceKeys are the public keys of the device, empty when the proxy holds none.
type DeviceKeys struct {
	Ed25519    id.Ed25519    `json:"ed25519,omitempty"`
	Curve25519 id.Curve25519 `json:"curve25519,omitempty"`
}

// IdentityStatus is the state of the user's own identity.
type IdentityStatus struct {
	// MasterKey is the published one, empty when there is none.
	MasterKey id.Ed25519 `json:"master_key,omitempty"`
	// Ours reports whether the proxy holds the private keys that belong to it.
	Ours bool `json:"ours"`
	// DeviceSigned reports whether this device carries a valid signature of it.
	DeviceSigned bool `json:"device_signed"`
}

// StorageStatus is the state of secret storage.
type StorageStatus struct {
	DefaultKey string `json:"default_key,omitempty"`
	// Complete reports whether the default key encrypts all that belongs there (requirements
	// 1.4, 1.5).
	Complete bool `json:"complete"`
}

// BackupStatus is the state of the key backup.
type BackupStatus struct {
	// Enabled is false when the user has switched key backup off (m.key_backup).
	Enabled bool   `json:"enabled"`
	Version string `json:"version,omitempty"`
	// Trusted reports whether the backup is known to be the account's own (requirement
	// 16.1), Readable whether its private key is here.
	Trusted  bool `json:"trusted"`
	Readable bool `json:"readable"`
	// Count is how many room keys it has, as the homeserver says, and Pending how many of
	// this device still have to be uploaded.
	Count   int `json:"count"`
	Pending int `json:"pending"`
	// Restore is the progress of restoring the whole history; nil when that was not asked
	// for.
	Restore *RestoreStatus `json:"restore,omitempty"`
}

// Problem is one thing that is wrong, and what to do about it.
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
	// Trusted is which exception it is.
	Trusted bool `json:"trusted"`
}

// Status returns the state of the device. Parts that could not be read are problems, not
// errors.
func (d *Device) Status(ctx context.Context) (Status, error) {
	out := Status{
		UserID: d.acct.User, DeviceID: d.core.ID, Mode: d.core.Mode.String(), OtherDevices: []DeviceTrust{}, Overrides: []UserDevice{},
		Problems: []Problem{}, Warnings: []Warning{},
	}
	switch d.core.Mode {
	case core.ModeForeign:
		out.Problems = append(out.Problems, problemForeign)
		return out, nil
	case core.ModeNone:
		out.Problems = append(out.Problems, problemNoDevice)
		return out, nil
	case core.ModeLost:
		out.Problems = append(out.Problems, problemLost)
		return out, nil
	case core.ModeUnknown:
		return out, nil
	case core.ModeProxied:
	}
	out.Keys = DeviceKeys{d.core.Ed25519, d.core.Curve25519}
	out.Policy = d.acct.rollout.Status()
	keys, err := d.acct.identity.Keys(ctx)
	if err != nil {
		return Status{}, err
	}
	own, err := d.ownIdentity.ReadOwn(ctx, true)
	if err != nil {
		return Status{}, err
	}
	d.identityStatus(&out, own, keys)
	if err := d.backupStatus(ctx, &out, own); err != nil {
		out.Problems = append(out.Problems, unreadable("the key backup"))
	}
	if err := d.storageStatus(ctx, &out, out.Backup.Readable && out.Backup.Enabled); err != nil {
		out.Problems = append(out.Problems, unreadable("secret storage"))
	}
	if err := d.overrideStatus(ctx, &out); err != nil {
		return Status{}, err
	}
	pending, err := d.acct.warnings.Pending(ctx)
	if err != nil {
		return Status{}, err
	}
	out.Warnings = append(out.Warnings, pending...)
	if d.keySupply.HasDeadKeys() {
		out.Problems = append(out.Problems, problemDeadKeys)
	}
	switch why := d.publication.Refusal(); {
	case why != nil:
		out.Problems = append([]Problem{problemKeysRefused(why)}, forUser(out.Problems)...)
	case !d.ownIdentity.IsChecked():
		out.Problems = withoutUnfinished(out.Problems, d.ownIdentity.State() == ownidentity.Unknown)
	}
	return out, nil
}

func (d *Device) identityStatus(out *Status, own *trustcache.User, keys *identity.Keys) {
	if !own.Known() {
		out.Problems = append(out.Problems, unreadable("the own devices"))
		return
	}
	out.Identity = IdentityStatus{
		MasterKey:    own.Current,
		Ours:         keys != nil && own.Current == keys.Master.PublicKey(),
		DeviceSigned: d.ownIdentity.State() == ownidentity.Signed,
	}
	var unsigned []id.DeviceID
	for i := range own.Devices {
		dev := &own.Devices[i]
		if dev.DeviceID == d.core.ID || dev.Fault == trustcache.FaultNoKeys {
			continue
		}
		out.OtherDevices = append(out.OtherDevices, deviceTrust(dev))
		if !dev.Signed && own.Current != "" {
			unsigned = append(unsigned, dev.DeviceID)
		}
	}
	if len(unsigned) > 0 {
		out.Problems = append(out.Problems, problemOthers(unsigned))
	}
	switch d.ownIdentity.State() {
	case ownidentity.Signed, ownidentity.Unknown:
	case ownidentity.Changed:
		out.Problems = append(out.Problems, problemChanged)
	case ownidentity.NoIdentity:
		out.Problems = append(out.Problems, problemNoIdentity)
	case ownidentity.Unsigned:
		out.Problems = append(out.Problems, problemOfUnsigned(d.ownIdentity.SignatureTrouble()))
	case ownidentity.Replaced:
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

func (d *Device) storageStatus(ctx context.Context, out *Status, hasBackup bool) error {
	storage, err := d.ownIdentity.LookAtStorage(ctx, hasBackup)
	out.SecretStorage = StorageStatus{DefaultKey: storage.DefaultKey, Complete: storage.Complete && !storage.OfAnother}
	if err != nil {
		return err
	}
	switch {
	case storage.DefaultKey == "":
		out.Problems = append(out.Problems, problemNoStorage)
	case !storage.Complete:
		out.Problems = append(out.Problems, problemStorageIncomplete)
	case storage.OfAnother:
		out.Problems = append(out.Problems, problemStorageOfAnother)
	}
	return nil
}

func (d *Device) backupStatus(ctx context.Context, out *Status, own *trustcache.User) error {
	now, err := d.backups.View(ctx, own)
	out.Backup = BackupStatus{
		Enabled: now.Wanted, Version: now.Version, Trusted: now.Trusted, Readable: now.Readable,
		Count: now.Count, Pending: now.Pending, Restore: d.backups.RestoreStatus(),
	}
	if err != nil {
		return err
	}
	switch {
	case !now.Wanted: // the user's choice is no problem
	case now.Version == "" && now.Deleted:
		out.Problems = append(out.Problems, problemBackupDeleted)
	case now.Version == "":
		out.Problems = append(out.Problems, problemNoBackup)
	case !now.Trusted:
		out.Problems = append(out.Problems, problemBackupNotOurs)
	case !now.Readable:
		out.Problems = append(out.Problems, problemBackupUnread)
	}
	return nil
}

func (d *Device) overrideStatus(ctx context.Context, out *Status) error {
	devices, err := d.acct.Tracker.Overrides(ctx)
	if err != nil {
		return fmt.Errorf("list exceptions: %w", err)
	}
	for i := range devices {
		out.Overrides = append(out.Overrides, UserDevice{
			UserID: devices[i].UserID, DeviceID: devices[i].DeviceID, Trusted: devices[i].Override == trustcache.OverrideTrusted,
		})
	}
	return nil
}
