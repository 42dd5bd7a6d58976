package status

import (
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/rollout"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/trustcache"
)

// Status is the state of a device and its owner's identity, as read from the homeserver,
// not assumed.
type Status struct {
	UserID        id.UserID   `json:"user_id"`
	DeviceID      id.DeviceID `json:"device_id,omitempty"`
	Mode          string      `json:"mode"`
	Keys          Keys        `json:"keys"`
	Identity      Identity    `json:"identity"`
	SecretStorage Storage     `json:"secret_storage"`
	Backup        Backup      `json:"backup"`
	// OtherDevices are the user's other devices that have keys.
	OtherDevices []Device   `json:"other_devices"`
	Overrides    []Override `json:"overrides"`
	// Policy is nil for a token without a device, and for a device whose keys are lost.
	Policy   *rollout.Status   `json:"policy,omitempty"`
	Problems []Problem         `json:"problems"`
	Warnings []notices.Warning `json:"warnings"`
}

// Keys are the public keys of the device, empty when the proxy holds none.
type Keys struct {
	Ed25519    id.Ed25519    `json:"ed25519,omitempty"`
	Curve25519 id.Curve25519 `json:"curve25519,omitempty"`
}

// Identity is the state of the user's own identity.
type Identity struct {
	// MasterKey is the published one, empty when there is none.
	MasterKey id.Ed25519 `json:"master_key,omitempty"`
	// Ours reports whether the proxy holds the private keys that belong to it.
	Ours bool `json:"ours"`
	// DeviceSigned reports whether this device carries a valid signature of it.
	DeviceSigned bool `json:"device_signed"`
}

// Storage is the state of secret storage.
type Storage struct {
	DefaultKey string `json:"default_key,omitempty"`
	// Complete reports whether the default key encrypts all that belongs there (requirements
	// 1.4, 1.5).
	Complete bool `json:"complete"`
}

// Backup is the state of the key backup.
type Backup struct {
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
	Restore *ownbackup.RestoreStatus `json:"restore,omitempty"`
}

// Problem is one thing that is wrong, and what to do about it.
type Problem struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

// Device is one device of a user.
type Device struct {
	DeviceID id.DeviceID `json:"device_id"`
	Signed   bool        `json:"signed"`
	// Override is the explicit exception: true trusted, false distrusted, nil none.
	Override *bool `json:"override"`
}

// Override names a device with an explicit exception.
type Override struct {
	UserID   id.UserID   `json:"user_id"`
	DeviceID id.DeviceID `json:"device_id"`
	// Trusted is which exception it is.
	Trusted bool `json:"trusted"`
	// Gone reports whether the homeserver does not show the device any more.
	Gone bool `json:"gone,omitzero"`
}

// SetIdentity says how the identity and the devices of the own user stand. device is the one
// that the status is of; trouble is why its identity has not signed it, if that was tried.
func (out *Status) SetIdentity(own *trustcache.User, keys *identity.Keys, device id.DeviceID, state ownidentity.State, trouble error) {
	if !own.Known() {
		out.Problems = append(out.Problems, unreadable("the own devices"))
		return
	}
	out.Identity = Identity{
		MasterKey:    own.Current,
		Ours:         keys != nil && own.Current == keys.Master.PublicKey(),
		DeviceSigned: state == ownidentity.Signed,
	}
	var unsigned []id.DeviceID
	for i := range own.Devices {
		dev := &own.Devices[i]
		if dev.DeviceID == device || dev.Fault == trustcache.FaultNoKeys {
			continue
		}
		out.OtherDevices = append(out.OtherDevices, TrustOf(dev))
		if !dev.Signed && own.Current != "" {
			unsigned = append(unsigned, dev.DeviceID)
		}
	}
	if len(unsigned) > 0 {
		out.Problems = append(out.Problems, problemOthers(unsigned))
	}
	switch state {
	case ownidentity.Signed, ownidentity.Unknown:
	case ownidentity.Changed:
		out.Problems = append(out.Problems, problemChanged)
	case ownidentity.NoIdentity:
		out.Problems = append(out.Problems, problemNoIdentity)
	case ownidentity.Unsigned:
		out.Problems = append(out.Problems, problemOfUnsigned(trouble))
	case ownidentity.Replaced:
		out.Problems = append(out.Problems, problemReplaced)
	}
}

// TrustOf returns how a device is trusted.
func TrustOf(dev *trustcache.Device) Device {
	out := Device{DeviceID: dev.DeviceID, Signed: dev.Signed}
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

// SetStorage says how secret storage stands; err is why it could not be read.
func (out *Status) SetStorage(storage ownidentity.StorageLook, err error) {
	out.SecretStorage = Storage{DefaultKey: storage.DefaultKey, Complete: storage.Complete && !storage.OfAnother}
	switch {
	case err != nil:
		out.Problems = append(out.Problems, unreadable("secret storage"))
	case storage.DefaultKey == "":
		out.Problems = append(out.Problems, problemNoStorage)
	case !storage.Complete:
		out.Problems = append(out.Problems, problemStorageIncomplete)
	case storage.OfAnother:
		out.Problems = append(out.Problems, problemStorageOfAnother)
	}
}

// SetBackup says how the key backup stands; err is why it could not be read.
func (out *Status) SetBackup(now ownbackup.View, restore *ownbackup.RestoreStatus, err error) {
	out.Backup = Backup{
		Enabled: now.Wanted, Version: now.Version, Trusted: now.Trusted, Readable: now.Readable,
		Count: now.Count, Pending: now.Pending, Restore: restore,
	}
	switch {
	case err != nil:
		out.Problems = append(out.Problems, unreadable("the key backup"))
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
}

// SetOverrides lists the exceptions.
func (out *Status) SetOverrides(devices []trustcache.Device) {
	for i := range devices {
		out.Overrides = append(out.Overrides, Override{
			UserID: devices[i].UserID, DeviceID: devices[i].DeviceID, Trusted: devices[i].Override == trustcache.OverrideTrusted,
			Gone: len(devices[i].Raw) == 0,
		})
	}
}

// New returns the status of a device of which no more than its mode is known.
func New(user id.UserID, device id.DeviceID, mode core.Mode) Status {
	out := Status{
		UserID: user, DeviceID: device, Mode: mode.String(), OtherDevices: []Device{}, Overrides: []Override{},
		Problems: []Problem{}, Warnings: []notices.Warning{},
	}
	switch mode {
	case core.ModeForeign:
		out.Problems = append(out.Problems, problemForeign)
	case core.ModeNone:
		out.Problems = append(out.Problems, problemNoDevice)
	case core.ModeLost:
		out.Problems = append(out.Problems, problemLost)
	case core.ModeUnknown, core.ModeProxied:
	}
	return out
}

// Finish adds the problems of the device's keys, and leaves out those that the proxy is
// about to solve itself: refused is why the homeserver refuses the keys, checked whether the
// proxy has set up what it can.
func (out *Status) Finish(deadKeys bool, refused *wire.UpstreamError, checked bool, state ownidentity.State) {
	if deadKeys {
		out.Problems = append(out.Problems, problemDeadKeys)
	}
	switch {
	case refused != nil:
		out.Problems = append([]Problem{problemKeysRefused(refused)}, forUser(out.Problems)...)
	case !checked:
		out.Problems = withoutUnfinished(out.Problems, state == ownidentity.Unknown)
	}
}
