package e2ee

import (
	"bytes"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/internal/secret"
)

// The password of a login through the proxy answers the homeserver's user-interactive
// authentication when the identity is made. It is a secret of a person that may open far
// more than this: it is kept in memory only, overwritten as soon as it can be of no more
// use, and after a minute in any case, whatever became of the login's device.

// passwordFor is how long a password is kept at most.
const passwordFor = time.Minute

// loginPassword holds one. The zero value holds none.
type loginPassword struct {
	mu    locks.Mutex
	text  secret.Bytes
	of    id.DeviceID // whose login it is from
	given int         // how many were kept so far, so that a new one is not taken for the last
	timer *time.Timer // runs while there is one
}

// keep holds a copy of a password, in place of the one before.
func (l *loginPassword) keep(p secret.Bytes, of id.DeviceID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wipeLocked()
	l.given++
	given := l.given
	l.text, l.of = bytes.Clone(p), of
	l.timer = time.AfterFunc(passwordFor, func() { l.forgetGiven(given) })
}

// current returns the password, empty when there is none, and which of those kept it is.
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

// forgetGiven overwrites the password if it is still the one that was taken.
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

// withLoginPassword puts the password of a login into what a caller did not give. spent is told how it
// went: what did its work, or was refused, is of no more use; what never got there may be.
func (a *account) withLoginPassword(auth UserAuth) (filled UserAuth, spent func(error)) {
	if !auth.Password.IsZero() || auth.Stage != nil {
		return auth, func(error) {}
	}
	password, given := a.password.current()
	auth.Password = password
	return auth, func(err error) {
		if err == nil || needsPerson(err) {
			a.password.forgetGiven(given)
		}
	}
}
