package ownbackup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/crypto/backup"

	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// MissingSecrets returns the names of the secrets that are not here. The backup key is
// missing when there is a backup and no stored key belongs to it.
func (b *Backup) MissingSecrets(ctx context.Context, own *trustcache.User) ([]string, error) {
	out, err := b.own.MissingKeys(ctx, own)
	if err != nil {
		return nil, err
	}
	key, _, err := b.acct.key(ctx)
	if err != nil {
		return nil, err
	}
	current, err := b.current(ctx)
	if err != nil {
		return nil, err
	}
	if current.PublicKey() != nil && !current.Trusts(key) {
		out = append(out, identity.SecretBackup)
	}
	slices.Sort(out)
	return out, nil
}

// CheckReceived decides about a backup key that another device sent: it is used if it
// belongs to the newest backup.
func (b *Backup) CheckReceived(ctx context.Context) error {
	const name = identity.SecretBackupReceived
	stored, err := b.Env.Store.Secret(ctx, b.acct.Row, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load a received secret: %w", err)
	}
	current, err := b.current(ctx)
	if err != nil {
		return err
	}
	ch := &store.Changes{DeleteSecrets: []string{name}}
	if key, err := backup.MegolmBackupKeyFromBytes(stored.Value.Reveal()); err == nil && current.Trusts(key) {
		meta, err := json.Marshal(keyMeta{current.Version})
		if err != nil {
			return fmt.Errorf("encode the backup version: %w", err)
		}
		ch.Secrets = []store.Secret{{Name: identity.SecretBackup, Value: stored.Value, Meta: meta, CreatedAt: b.Env.Now()}}
	}
	if err := b.Save(ctx, ch); err != nil {
		return fmt.Errorf("store a received secret: %w", err)
	}
	return nil
}
