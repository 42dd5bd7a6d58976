package core

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// Reasons why something was not done. Callers turn them into Matrix errors.
var (
	// ErrCannotEncrypt means that it cannot be told whether, or how, a room is encrypted.
	ErrCannotEncrypt = errors.New("the room's encryption cannot be determined")
	// ErrNotYetEncrypted means that a room replaces one that is encrypted, and is not
	// encrypted itself.
	ErrNotYetEncrypted = errors.New("the room replaces an encrypted one and is not encrypted yet")
	// ErrNoState and ErrNotInRoom are returned by a StateReader.
	ErrNoState   = errors.New("the room has no such state")
	ErrNotInRoom = errors.New("the room's state is not shown")
	// ErrRoomChanged means that somebody may have left, or lost the right to the key, between
	// two steps of a send.
	ErrRoomChanged = errors.New("the room, or who may read it, changed meanwhile")
	// ErrUnsupportedAlgorithm means that the room is encrypted in a way we do not know
	// (requirement 20.2).
	ErrUnsupportedAlgorithm = errors.New("the room's encryption algorithm is not supported")
	// ErrNotJoined means that the account is not in the room, so that it may not send there.
	ErrNotJoined = errors.New("the account is not in the room")
	// ErrDeviceNotSigned means that the sending device is not signed by its owner's identity,
	// so that others would not show its messages.
	ErrDeviceNotSigned = errors.New("this device is not confirmed by its owner")
	// ErrSignatureNotShown means that the homeserver accepted the signature that confirms this
	// device, and does not show it, and ErrSignatureRefused that it did not accept it.
	ErrSignatureNotShown = errors.New("the homeserver accepted this device's signature and does not show it")
	ErrSignatureRefused  = errors.New("the homeserver refused this device's signature")
	// ErrKeysRefused means that the homeserver refuses the device's encryption keys.
	ErrKeysRefused = errors.New("the homeserver refuses this device's encryption keys")
	// ErrNotProxied means that the proxy holds no keys for the device.
	ErrNotProxied = errors.New("the proxy holds no keys for this device")
	// ErrKeysReplaced means that the homeserver shows other keys for our device than ours.
	ErrKeysReplaced = errors.New("the homeserver shows other keys for this device")
	// ErrKeysLost means that the device's published keys were the proxy's and were
	// destroyed.
	ErrKeysLost = errors.New("the keys of this device are gone")
	// ErrClosed means that the engine is shutting down.
	ErrClosed = errors.New("the engine is shutting down")
	// ErrLeaseLost means that another process has taken over the database and this one must
	// end.
	ErrLeaseLost = store.ErrLeaseLost
	// ErrIdentityExists means that the account has an identity already: it is never replaced
	// by a bootstrap.
	ErrIdentityExists = errors.New("the account has an identity already")
	// ErrWrongPassword means that the homeserver refused the password.
	ErrWrongPassword = errors.New("the homeserver refused the password")
	// ErrNoIdentity means that the account has no identity.
	ErrNoIdentity = errors.New("the account has no identity")
	// ErrWrongRecoveryKey means that the recovery key or passphrase does not open secret
	// storage.
	ErrWrongRecoveryKey = errors.New("the recovery key or passphrase does not fit")
	// ErrNoSecretStorage means that the account has no usable secret storage.
	ErrNoSecretStorage = errors.New("the account has no usable secret storage")
	// ErrNoPassphrase means that secret storage has a key but no passphrase.
	ErrNoPassphrase = errors.New("the secret storage has no passphrase")
	// ErrNoBackup means that there is no key backup whose key is here.
	ErrNoBackup = errors.New("there is no key backup that can be read")
	// ErrSecretMissing means that secret storage does not hold a secret under its default key.
	ErrSecretMissing = errors.New("the secret is not in secret storage")
	// ErrSecretMismatch means that a secret does not belong to the published identity.
	ErrSecretMismatch = errors.New("the secret does not belong to the published identity")
	// ErrUnknownUser, ErrUnknownDevice and ErrUnknownWarning mean that the one named does
	// not exist.
	ErrUnknownUser    = errors.New("nothing is known of this user")
	ErrUnknownDevice  = errors.New("the user has no such device")
	ErrUnknownWarning = errors.New("there is no such warning")
	// ErrSessionEnded means that the proxy has no access token of a device that is still valid.
	ErrSessionEnded = errors.New("the device's session has ended")
	// ErrMasterKeyNotCurrent means that an acknowledgement names a key that is not the current
	// one.
	ErrMasterKeyNotCurrent = errors.New("the master key is not the current one")
	// ErrVerificationLost means that a user was verified before: acknowledging is not enough.
	ErrVerificationLost = errors.New("the user was verified before the change")
	// ErrNotVerified means that there is no lost verification to withdraw.
	ErrNotVerified = errors.New("the user was not verified")
	// ErrNoVerification means that there is no such verification, or it was over long ago.
	ErrNoVerification = errors.New("there is no such verification")
	// ErrVerificationStep means that a verification is not at the point where something could be
	// done.
	ErrVerificationStep = errors.New("the verification is not at that point")
	// ErrTooManyVerifications means that too many verifications are under way.
	ErrTooManyVerifications = errors.New("too many verifications are under way")
	// ErrUnverifiable means that a user has no identity that could be verified: single devices
	// of others are not.
	ErrUnverifiable = errors.New("the user has no identity that could be verified")
	// ErrNotACode means that something is no QR code for a verification.
	ErrNotACode = errors.New("this is no code of a verification")
	// ErrOtherCode means that a QR code belongs to another verification or to somebody else.
	ErrOtherCode = errors.New("the code belongs to another verification")
	// ErrNoRecoveryKey means that no recovery key is kept.
	ErrNoRecoveryKey = errors.New("no recovery key is kept")
)

// IdentityChangedError means that encrypted sending is blocked until identity changes are
// acknowledged (spec 1.18, requirement 1.12).
type IdentityChangedError struct {
	// Users are those whose identity changed, Lost those of them who were verified before.
	Users []id.UserID
	Lost  []id.UserID
}

// Error implements error.
func (e *IdentityChangedError) Error() string {
	names := make([]string, 0, len(e.Users)+len(e.Lost))
	for _, u := range append(append([]id.UserID(nil), e.Users...), e.Lost...) {
		names = append(names, u.String())
	}
	return "the digital identity was reset: " + strings.Join(names, ", ")
}

// RuledError means that somebody who could read it may not have the keys of a room, by the rules
// of an organisation.
type RuledError struct {
	// Users are those people, Rule denies it, and Reason is why, in words for a person.
	Users        []id.UserID
	Rule, Reason string
}

// Error implements error.
func (e *RuledError) Error() string {
	return fmt.Sprintf("the rule %q denies the room's keys to %d users", e.Rule, len(e.Users))
}

// UserAuth is a caller's answer to user-interactive authentication. Every field may be
// empty.
type UserAuth struct {
	Password secret.String
	// Stage is the "auth" object that continues the session of an earlier AuthNeededError.
	Stage json.RawMessage
}

// ErrMoreToDo means that more is left for the next maintenance, or that something changed
// and must be checked again.
var ErrMoreToDo = errors.New("there is more to do")
