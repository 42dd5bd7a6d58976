package ownidentity

import (
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
)

// Account is what the devices of a user share about the user's identity.
type Account struct {
	*core.Account

	// boot lets one device at a time set up the identity.
	boot locks.Turns[struct{}]
	// password is from a login through the proxy, see password.go.
	password loginPassword

	mu locks.Mutex
	// tried is a hash of the last failed attempt to recover the identity without a person.
	tried [32]byte
	// storage is the state of secret storage at the last check.
	storage StorageStanding
}

// NewAccount returns an account of whose identity nothing is known.
func NewAccount(a *core.Account) Account {
	return Account{
		Account:  a,
		boot:     locks.Turns[struct{}]{Place: a.Env.Order.At(locks.RankBoot)},
		password: loginPassword{mu: locks.Mutex{Place: a.Env.Order.At(locks.RankLeaf)}},
		mu:       locks.Mutex{Place: a.Env.Order.At(locks.RankAccount)},
	}
}

// StorageStanding is the state of secret storage at the last check.
type StorageStanding int

const (
	StorageUnknown StorageStanding = iota
	// StorageMissing is an account without a usable default key.
	StorageMissing
	// StorageIncomplete lacks some of the secrets and its key is not here, or it has those
	// of another identity.
	StorageIncomplete
	// StorageComplete has the identity and, if there is a backup, its key (requirements
	// 1.4, 1.5).
	StorageComplete
)

// Storage returns the state of secret storage at the last check.
func (a *Account) Storage() StorageStanding {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.storage
}

func (a *Account) setStorageStanding(s StorageStanding) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.storage = s
}

// triedBefore reports whether the last failed attempt to recover the identity was this one.
func (a *Account) triedBefore(attempt [32]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tried == attempt
}

func (a *Account) rememberAttempt(attempt [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tried = attempt
}

// ForgetPassword overwrites the password of a login.
func (a *Account) ForgetPassword() { a.password.forget() }

// ForgetPasswordOf overwrites the password of the login of a device that was logged out.
func (a *Account) ForgetPasswordOf(device id.DeviceID) { a.password.forgetOf(device) }
