package interceptors

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// Control is what the control API (/_e2ee_proxy/v1) does with one device. Every
// method that changes something has changed nothing when it returns an error, or can
// be repeated. Reads tell what the homeserver shows now, not what is assumed.
type Control interface {
	// Status may talk to the homeserver. Parts that could not be read are Problems, not errors.
	Status(ctx context.Context) (Status, error)
	// Bootstrap creates what is missing and gives the recovery key once. It never
	// replaces an identity: ErrIdentityExists.
	Bootstrap(ctx context.Context, auth Auth) (secret.String, error)
	// Recover takes the identity and the backup key from secret storage and signs the device.
	Recover(ctx context.Context, with Recovery) error
	// Reset makes a new identity, secret storage and backup and gives the recovery key.
	Reset(ctx context.Context, auth Auth) (secret.String, error)
	// RecoveryKey gives the key that an automatic bootstrap made: ErrNoRecoveryKey when
	// there is none, it was deleted, or its time is over.
	RecoveryKey(ctx context.Context) (secret.String, error)
	// DeleteRecoveryKey forgets it; no error when there is none.
	DeleteRecoveryKey(ctx context.Context) error
	// User tells what is known of somebody. A user never seen has State "none".
	User(ctx context.Context, user id.UserID) (UserTrust, error)
	// Acknowledge accepts a changed identity: ErrMasterKeyNotCurrent when masterKey is
	// not the one in force now, ErrVerificationLost when it was verified before. It is no
	// error when that key is the pinned one already.
	Acknowledge(ctx context.Context, user id.UserID, masterKey id.Ed25519) error
	// WithdrawVerification gives up a verification: ErrNotVerified when there is none.
	WithdrawVerification(ctx context.Context, user id.UserID) error
	// SetOverride makes or removes the explicit exception for a device: ErrUnknownDevice.
	SetOverride(ctx context.Context, user id.UserID, device id.DeviceID, trusted bool) error
	// Warnings are those pending, oldest first.
	Warnings(ctx context.Context) ([]e2ee.Warning, error)
	// DismissWarning drops one: ErrUnknownWarning.
	DismissWarning(ctx context.Context, warning string) error
}

// Reasons why a [Control] refuses. Anything else is an internal error or an
// [e2ee.UpstreamError].
var (
	ErrIdentityExists      = errors.New("the account has an identity already")
	ErrNoIdentity          = errors.New("the account has no identity")
	ErrNoRecoveryKey       = errors.New("no recovery key is kept")
	ErrWrongRecoveryKey    = errors.New("the recovery key or passphrase does not fit")
	ErrNoSecretStorage     = errors.New("the account has no usable secret storage")
	ErrNoPassphrase        = errors.New("the secret storage has no passphrase")
	ErrSecretMissing       = errors.New("the secret is not in secret storage")
	ErrSecretMismatch      = errors.New("the secret does not belong to the published identity")
	ErrWrongPassword       = errors.New("the homeserver refused the password")
	ErrUnknownUser         = errors.New("nothing is known of this user")
	ErrUnknownDevice       = errors.New("the user has no such device")
	ErrUnknownWarning      = errors.New("there is no such warning")
	ErrMasterKeyNotCurrent = errors.New("the master key is not the current one")
	ErrVerificationLost    = errors.New("the user was verified before the change")
	ErrNotVerified         = errors.New("the user was not verified")
)

// AuthNeededError says that the homeserver asks for user-interactive authentication
// that the client must do; its next call carries it in "auth".
type AuthNeededError struct {
	// Body is the homeserver's 401, as it came: flows, params, session.
	Body json.RawMessage
}

// Error implements error.
func (*AuthNeededError) Error() string {
	return "the homeserver asks for user-interactive authentication"
}

// Auth is what a caller has for the homeserver's user-interactive authentication. All
// of it may be missing.
type Auth struct {
	Password secret.String
	// Stage is the "auth" object for a session of an earlier [AuthNeededError].
	Stage json.RawMessage
}

// Recovery is a recovery key or a passphrase: exactly one of them.
type Recovery struct {
	Key        secret.String
	Passphrase secret.String
}

// Status is the answer to GET status.
type Status struct {
	UserID   id.UserID   `json:"user_id"`
	DeviceID id.DeviceID `json:"device_id,omitempty"`
	// Mode is "proxied", "foreign", "none" or "unknown", see [e2ee.Mode].
	Mode          string         `json:"mode"`
	Keys          DeviceKeys     `json:"keys"`
	Identity      IdentityStatus `json:"identity"`
	SecretStorage StorageStatus  `json:"secret_storage"`
	Backup        BackupStatus   `json:"backup"`
	// OtherDevices are the user's other devices that hold keys.
	OtherDevices []DeviceTrust  `json:"other_devices"`
	Overrides    []UserDevice   `json:"overrides"`
	Problems     []Problem      `json:"problems"`
	Warnings     []e2ee.Warning `json:"warnings"`
}

// DeviceKeys are the public keys of the device, empty when the proxy holds none.
type DeviceKeys struct {
	Ed25519    id.Ed25519    `json:"ed25519,omitempty"`
	Curve25519 id.Curve25519 `json:"curve25519,omitempty"`
}

// IdentityStatus tells of the user's own identity, read back from the homeserver.
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
	// Complete says that the default key encrypts all that belongs there (requirement 1.4, 1.5).
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

// UserTrust is the answer to GET users/{userId}.
type UserTrust struct {
	UserID           id.UserID     `json:"user_id"`
	State            string        `json:"state"`
	PinnedMasterKey  id.Ed25519    `json:"pinned_master_key,omitempty"`
	CurrentMasterKey id.Ed25519    `json:"current_master_key,omitempty"`
	ChangedAt        *time.Time    `json:"changed_at,omitempty"`
	Devices          []DeviceTrust `json:"devices"`
}

// DeviceTrust is one device of a user.
type DeviceTrust struct {
	DeviceID id.DeviceID `json:"device_id"`
	Name     string      `json:"name,omitempty"`
	Signed   bool        `json:"signed"`
	Override bool        `json:"override"`
}

// UserDevice names a device with an explicit exception.
type UserDevice struct {
	UserID   id.UserID   `json:"user_id"`
	DeviceID id.DeviceID `json:"device_id"`
}
