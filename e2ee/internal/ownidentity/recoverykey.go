package ownidentity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"maunium.net/go/mautrix/crypto/utils"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// recoveryKeyFor is how long the control API returns the recovery key of a bootstrap: a
// stolen token must not give away the identity for ever.
const recoveryKeyFor = 24 * time.Hour

// RecoveryKey returns the recovery key that a bootstrap made, for 24 hours and until the
// user deletes it.
func (a *Account) RecoveryKey(ctx context.Context) (secret.String, error) {
	made, err := a.Env.Store.Secret(ctx, a.Row, identity.SecretStorageKey)
	if errors.Is(err, store.ErrNotFound) {
		return secret.String{}, core.ErrNoRecoveryKey
	}
	if err != nil {
		return secret.String{}, fmt.Errorf("load the recovery key: %w", err)
	}
	_, err = a.Env.Store.Secret(ctx, a.Row, identity.SecretRecoveryRead)
	switch {
	case err == nil, a.Env.Now().Sub(made.CreatedAt) > recoveryKeyFor:
		return secret.String{}, core.ErrNoRecoveryKey
	case !errors.Is(err, store.ErrNotFound):
		return secret.String{}, fmt.Errorf("load the recovery key: %w", err)
	}
	// Without the identity the key is useless: another identity took its place.
	if keys, err := a.Keys(ctx); err != nil {
		return secret.String{}, err
	} else if keys == nil {
		return secret.String{}, core.ErrNoRecoveryKey
	}
	return a.KeptRecoveryKey(ctx)
}

// DeleteRecoveryKey makes the key unreadable through the API. The key stays stored, sealed,
// for the machine's administrator.
func (o *Identity) DeleteRecoveryKey(ctx context.Context) error {
	row := store.Secret{Name: identity.SecretRecoveryRead, Value: secret.Bytes("1"), CreatedAt: o.Env.Now()}
	if err := o.Save(ctx, &store.Changes{Secrets: []store.Secret{row}}); err != nil {
		return fmt.Errorf("delete the recovery key: %w", err)
	}
	return nil
}

// KeptRecoveryKey returns the recovery key that a bootstrap made, whatever its age, in its
// text form (requirement 14.6).
func (a *Account) KeptRecoveryKey(ctx context.Context) (secret.String, error) {
	key, err := a.ownStorageKey(ctx)
	if err != nil {
		return secret.String{}, err
	}
	if key == nil {
		return secret.String{}, core.ErrNoRecoveryKey
	}
	return secret.NewString(utils.EncodeBase58RecoveryKey(key.Key)), nil
}

// WellFormedRecoveryKey reports whether a text is a recovery key: base58 with the two bytes
// and the parity of the specification (Client-Server API, Key representation), spaces
// anywhere. Whether it is the account's key only the homeserver can tell.
func WellFormedRecoveryKey(key secret.String) bool {
	return utils.DecodeBase58RecoveryKey(strings.Join(strings.Fields(key.Reveal()), "")) != nil
}
