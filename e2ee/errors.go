package e2ee

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// Reasons why something was not encrypted. Callers turn them into Matrix errors.
var (
	// ErrCannotEncrypt says that it cannot be told whether, or how, a room is encrypted.
	ErrCannotEncrypt = errors.New("the room's encryption cannot be determined")
	// ErrUnsupportedAlgorithm says that the room is encrypted in a way we do not know (requirement 20.2).
	ErrUnsupportedAlgorithm = errors.New("the room's encryption algorithm is not supported")
	// ErrDeviceNotSigned says that the sending device is not signed by its owner's
	// identity, so that others would not show its messages.
	ErrDeviceNotSigned = errors.New("this device is not confirmed by its owner")
	// ErrNotProxied says that the proxy holds no keys for the device.
	ErrNotProxied = errors.New("the proxy holds no keys for this device")
	// ErrKeysReplaced says that the homeserver shows other keys for our device than ours.
	ErrKeysReplaced = errors.New("the homeserver shows other keys for this device")
	// ErrClosed says that the engine is shutting down.
	ErrClosed = errors.New("the engine is shutting down")
	// ErrIdentityExists says that the account has an identity already: it is never replaced by a bootstrap.
	ErrIdentityExists = errors.New("the account has an identity already")
	// ErrWrongPassword says that the homeserver refused the password.
	ErrWrongPassword = errors.New("the homeserver refused the password")
	// ErrNoRecoveryKey says that no recovery key is kept.
	ErrNoRecoveryKey = errors.New("no recovery key is kept")
)

// IdentityChangedError says that encrypted sending is held up until changes of
// identity are acknowledged (spec 1.18, requirement 1.12).
type IdentityChangedError struct {
	// Users changed their identity; Lost were verified before it.
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

// UpstreamError is an answer of the homeserver that is not a success, or no answer
// at all (Status 0). It never carries a request, a token or a body.
type UpstreamError struct {
	Op         string
	Status     int
	ErrCode    string
	Text       string
	SoftLogout bool
	RetryAfter time.Duration
	// UIA is set when the homeserver asks for user-interactive authentication.
	UIA   *uiaChallenge
	Cause error // set when there was no answer
}

// Error implements error.
func (e *UpstreamError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("%s: homeserver did not answer: %v", e.Op, e.Cause)
	}
	return fmt.Sprintf("%s: homeserver answered %d %s", e.Op, e.Status, e.ErrCode)
}

// Unwrap gives the transport's error.
func (e *UpstreamError) Unwrap() error { return e.Cause }

// UserAuth is what a caller has for user-interactive authentication. All of it may be missing.
type UserAuth struct {
	Password secret.String
	// Stage is the "auth" object for a session of an earlier AuthNeededError.
	Stage json.RawMessage
}

// AuthNeededError says that the homeserver asks for user-interactive authentication
// that only the client can do; its next call carries it in "auth".
type AuthNeededError struct {
	// Body is the homeserver's 401: flows, params, session.
	Body json.RawMessage
}

// Error implements error.
func (*AuthNeededError) Error() string {
	return "the homeserver asks for user-interactive authentication"
}

// uiaChallenge is a homeserver's 401 with flows.
type uiaChallenge struct {
	session string
	flows   [][]string
	body    json.RawMessage
}

// takesPassword reports whether a password alone is enough.
func (c *uiaChallenge) takesPassword() bool {
	for _, stages := range c.flows {
		if len(stages) == 1 && stages[0] == "m.login.password" {
			return true
		}
	}
	return false
}

// upstreamStatus gives the HTTP status of an UpstreamError, 0 when err is none or had no answer.
func upstreamStatus(err error) int {
	var up *UpstreamError
	if errors.As(err, &up) {
		return up.Status
	}
	return 0
}
