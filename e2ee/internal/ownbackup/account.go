package ownbackup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/crypto/backup"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// Account is what the devices of a user share about the account's key backup.
type Account struct {
	*core.Account

	mu locks.Mutex
	// now is the state of the backup at the last check.
	now keybackup.Standing
	// target is the backup found last; seq counts requests to check it again.
	target *keybackup.Target
	seq    int
}

// NewAccount returns an account of whose backup nothing is known.
func NewAccount(a *core.Account) Account {
	return Account{Account: a, mu: locks.Mutex{Place: a.Env.Order.At(locks.RankAccount)}}
}

// Standing returns the state of the backup at the last check.
func (a *Account) Standing() keybackup.Standing {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now
}

// SetStanding sets the state, and makes the next use check the backup version again.
func (a *Account) SetStanding(s keybackup.Standing) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now, a.target = s, nil
	a.seq++
}

// known returns the backup found last, nil when it must be looked for, and the
// counter to pass to keep.
func (a *Account) known() (target *keybackup.Target, looked int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.target, a.seq
}

// keep remembers the backup that was found. It reports false if something changed
// meanwhile.
func (a *Account) keep(target *keybackup.Target, looked int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seq != looked {
		return false
	}
	a.target = target
	return true
}

// Forget makes the next use check the backup version again.
func (a *Account) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.target = nil
	a.seq++
}

// key returns the stored private backup key, nil when there is none, and the
// version it belonged to.
func (a *Account) key(ctx context.Context) (*backup.MegolmBackupKey, string, error) {
	stored, err := a.Env.Store.Secret(ctx, a.Row, identity.SecretBackup)
	if errors.Is(err, store.ErrNotFound) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("load the backup key: %w", err)
	}
	key, err := backup.MegolmBackupKeyFromBytes(stored.Value.Reveal())
	if err != nil {
		return nil, "", fmt.Errorf("read the backup key: %w", err)
	}
	var meta keyMeta
	if len(stored.Meta) > 0 && json.Unmarshal(stored.Meta, &meta) != nil {
		return nil, "", fmt.Errorf("read the backup key: %w", strictjson.ErrMalformed)
	}
	return key, meta.Version, nil
}
