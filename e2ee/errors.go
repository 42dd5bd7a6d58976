package e2ee

import (
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/rollout"
	"e2ee-proxy/e2ee/internal/status"
	"e2ee-proxy/internal/secret"
)

// Errors of the engine, with their meaning in package core. Callers turn them into Matrix
// errors.
var (
	ErrCannotEncrypt        = core.ErrCannotEncrypt
	ErrClosed               = core.ErrClosed
	ErrDeviceNotSigned      = core.ErrDeviceNotSigned
	ErrIdentityExists       = core.ErrIdentityExists
	ErrKeysLost             = core.ErrKeysLost
	ErrKeysRefused          = core.ErrKeysRefused
	ErrKeysReplaced         = core.ErrKeysReplaced
	ErrLeaseLost            = core.ErrLeaseLost
	ErrMasterKeyNotCurrent  = core.ErrMasterKeyNotCurrent
	ErrNoBackup             = core.ErrNoBackup
	ErrNoIdentity           = core.ErrNoIdentity
	ErrNoPassphrase         = core.ErrNoPassphrase
	ErrNoRecoveryKey        = core.ErrNoRecoveryKey
	ErrNoSecretStorage      = core.ErrNoSecretStorage
	ErrNoState              = core.ErrNoState
	ErrNotInRoom            = core.ErrNotInRoom
	ErrNotJoined            = core.ErrNotJoined
	ErrNotProxied           = core.ErrNotProxied
	ErrNotVerified          = core.ErrNotVerified
	ErrNotYetEncrypted      = core.ErrNotYetEncrypted
	ErrReload               = core.ErrReload
	ErrSecretMismatch       = core.ErrSecretMismatch
	ErrSecretMissing        = core.ErrSecretMissing
	ErrSignatureNotShown    = core.ErrSignatureNotShown
	ErrSignatureRefused     = core.ErrSignatureRefused
	ErrUnknownDevice        = core.ErrUnknownDevice
	ErrUnknownUser          = core.ErrUnknownUser
	ErrUnknownWarning       = core.ErrUnknownWarning
	ErrUnsupportedAlgorithm = core.ErrUnsupportedAlgorithm
	ErrVerificationLost     = core.ErrVerificationLost
	ErrWrongPassword        = core.ErrWrongPassword
	ErrWrongRecoveryKey     = core.ErrWrongRecoveryKey
)

type (
	// IdentityChangedError means that encrypted sending is blocked until identity changes are
	// acknowledged.
	IdentityChangedError = core.IdentityChangedError
	// UserAuth is a caller's answer to user-interactive authentication.
	UserAuth = core.UserAuth
	// Recovery is a recovery key or a passphrase, exactly one of them.
	Recovery = ownidentity.Recovery
	// RestoreStatus is the progress of a restore.
	RestoreStatus = ownbackup.RestoreStatus
	// Status is the state of a device and its owner's identity, as read from the homeserver.
	Status         = status.Status
	DeviceKeys     = status.Keys
	IdentityStatus = status.Identity
	StorageStatus  = status.Storage
	BackupStatus   = status.Backup
	DeviceTrust    = status.Device
	UserDevice     = status.Override
	// Problem is one thing that is wrong, and what to do about it.
	Problem = status.Problem
	// PolicyStatus is how strictly the policy is applied now, and what enforcing it would have
	// done: WouldHave, by room RoomWouldHave.
	PolicyStatus  = rollout.Status
	WouldHave     = rollout.WouldHave
	RoomWouldHave = rollout.RoomWouldHave
	// AccountSettings are the settings of one account.
	AccountSettings = core.AccountSettings
	// Mode says what the proxy does for a device.
	Mode = core.Mode
)

// The modes of devices, see package core.
const (
	ModeUnknown = core.ModeUnknown
	ModeProxied = core.ModeProxied
	ModeForeign = core.ModeForeign
	ModeNone    = core.ModeNone
	ModeLost    = core.ModeLost
)

// WellFormedRecoveryKey reports whether a text is a recovery key: base58 with the two bytes
// and the parity of the specification (Client-Server API, Key representation), spaces
// anywhere. Whether it is the account's key only the homeserver can tell.
func WellFormedRecoveryKey(key secret.String) bool { return ownidentity.WellFormedRecoveryKey(key) }
