package ownidentity

import (
	"bytes"
	"errors"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
)

// The password of a login through the proxy answers the homeserver's user-interactive
// authentication when the identity is made. It may protect far more than this account, so
// it is kept in memory only, and overwritten as soon as it is not needed any more, after a
// minute at the latest.

// passwordFor is how long a password is kept at most.
const passwordFor = time.Minute

// loginPassword is the password of the last login. The zero value has none.
type loginPassword struct {
	mu    locks.Mutex
	text  secret.Bytes
	of    id.DeviceID // the device of the login
	given int         // the number of passwords kept so far; tells a new one from the last
	timer *time.Timer // runs while a password is kept
}

// keep keeps a copy of a password and overwrites the one before.
func (l *loginPassword) keep(p secret.Bytes, of id.DeviceID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wipeLocked()
	l.given++
	given := l.given
	l.text, l.of = bytes.Clone(p), of
	l.timer = time.AfterFunc(passwordFor, func() { l.forgetGiven(given) })
}

// current returns the password, empty when there is none, and its number.
func (l *loginPassword) current() (secret.String, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return secret.NewString(string(l.text)), l.given
}

// forget overwrites the password.
func (l *loginPassword) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wipeLocked()
}

// forgetGiven overwrites the password if it still has this number.
func (l *loginPassword) forgetGiven(given int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.given == given {
		l.wipeLocked()
	}
}

// forgetOf overwrites the password of a device that was logged out.
func (l *loginPassword) forgetOf(device id.DeviceID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == device {
		l.wipeLocked()
	}
}

func (l *loginPassword) wipeLocked() {
	l.text.Wipe()
	l.text = nil
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// WithLoginPassword adds the password of a login if the caller gave none. The caller
// reports the result to spent: a password that was accepted or refused is forgotten, one
// that was never sent is kept.
func (a *Account) WithLoginPassword(auth core.UserAuth) (filled core.UserAuth, spent func(error)) {
	if !auth.Password.IsZero() || auth.Stage != nil {
		return auth, func(error) {}
	}
	password, given := a.password.current()
	auth.Password = password
	return auth, func(err error) {
		if err == nil || NeedsPerson(err) {
			a.password.forgetGiven(given)
		}
	}
}

// NeedsPerson reports whether retrying is useless until a person does something.
func NeedsPerson(err error) bool {
	var auth *wire.AuthNeededError
	return errors.As(err, &auth) || errors.Is(err, core.ErrWrongPassword) || signatureFailed(err)
}
