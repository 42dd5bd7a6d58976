package interceptors

import (
	"context"
	"io"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// Control is one device as the control API (/_e2ee_proxy/v1) sees it. A method that changes
// something has changed nothing when it returns an error, or can be repeated. Reads return
// what the homeserver shows now.
type Control interface {
	// Status may talk to the homeserver. Parts that could not be read are Problems, not
	// errors.
	Status(ctx context.Context) (Status, error)
	// Bootstrap creates what is missing and returns the recovery key, if one was made and can
	// still be read, else nothing. It never replaces an identity: ErrIdentityExists.
	Bootstrap(ctx context.Context, auth Auth) (secret.String, error)
	// Recover takes the identity and the backup key from secret storage and signs the device.
	Recover(ctx context.Context, with Recovery) error
	// ExportKeys writes the room keys as a file. On an error before it began it has written
	// nothing.
	ExportKeys(ctx context.Context, passphrase secret.String, w io.Writer) error
	// ImportKeys imports room keys from such a file: ErrNotAnExport, ErrWrongPassphrase,
	// ErrExportTooCostly. open returns a new reader of the file.
	ImportKeys(ctx context.Context, passphrase secret.String, open func() io.Reader) (e2ee.Imported, error)
	// RestoreHistory starts fetching all keys from the key backup: ErrNoBackup.
	RestoreHistory(ctx context.Context) error
	// Reset makes a new identity, secret storage and backup and returns the recovery key.
	Reset(ctx context.Context, auth Auth) (secret.String, error)
	// RecoveryKey returns the key that an automatic bootstrap made: ErrNoRecoveryKey when
	// there is none, it was deleted, or its time is over.
	RecoveryKey(ctx context.Context) (secret.String, error)
	// DeleteRecoveryKey deletes it; no error when there is none.
	DeleteRecoveryKey(ctx context.Context) error
	// User returns what is known of a user. A user never seen has State "none".
	User(ctx context.Context, user id.UserID) (UserTrust, error)
	// Acknowledge accepts a changed identity: ErrMasterKeyNotCurrent when masterKey is not the
	// current one, ErrVerificationLost when the user was verified before. It is no error when
	// that key is the pinned one already.
	Acknowledge(ctx context.Context, user id.UserID, masterKey id.Ed25519) error
	// WithdrawVerification withdraws a verification: ErrNotVerified when there is none.
	WithdrawVerification(ctx context.Context, user id.UserID) error
	// SetOverride sets or removes the exception for a device: ErrUnknownDevice.
	SetOverride(ctx context.Context, user id.UserID, device id.DeviceID, trusted *bool) error
	// Warnings returns the pending warnings, oldest first.
	Warnings(ctx context.Context) ([]e2ee.Warning, error)
	// DismissWarning deletes a warning: ErrUnknownWarning.
	DismissWarning(ctx context.Context, warning string) error
}

// Errors of a [Control]. Anything else is an internal error or an [e2ee.UpstreamError].
var (
	ErrIdentityExists      = e2ee.ErrIdentityExists
	ErrNoIdentity          = e2ee.ErrNoIdentity
	ErrNoRecoveryKey       = e2ee.ErrNoRecoveryKey
	ErrWrongRecoveryKey    = e2ee.ErrWrongRecoveryKey
	ErrNoSecretStorage     = e2ee.ErrNoSecretStorage
	ErrNoPassphrase        = e2ee.ErrNoPassphrase
	ErrNoBackup            = e2ee.ErrNoBackup
	ErrSecretMissing       = e2ee.ErrSecretMissing
	ErrSecretMismatch      = e2ee.ErrSecretMismatch
	ErrWrongPassword       = e2ee.ErrWrongPassword
	ErrUnknownUser         = e2ee.ErrUnknownUser
	ErrUnknownDevice       = e2ee.ErrUnknownDevice
	ErrUnknownWarning      = e2ee.ErrUnknownWarning
	ErrMasterKeyNotCurrent = e2ee.ErrMasterKeyNotCurrent
	ErrVerificationLost    = e2ee.ErrVerificationLost
	ErrNotVerified         = e2ee.ErrNotVerified
	ErrNotAnExport         = e2ee.ErrNotAnExport
	ErrWrongPassphrase     = e2ee.ErrWrongPassphrase
	ErrExportTooCostly     = e2ee.ErrExportTooCostly
)

// Types of the engine, under the names that the handlers use.
type (
	// AuthNeededError says that the client must do user-interactive authentication.
	AuthNeededError = e2ee.AuthNeededError
	// Auth is the caller's user-interactive authentication.
	Auth = e2ee.UserAuth
	// Recovery is a recovery key or a passphrase.
	Recovery = e2ee.Recovery
	// Status is the answer to GET status.
	Status = e2ee.Status
	// UserTrust is the answer to GET users/{userId}.
	UserTrust = e2ee.UserTrust
)
