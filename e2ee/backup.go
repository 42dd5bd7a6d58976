package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/ssss"

	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// currentBackup reads the newest backup version; nil when there is none.
func (b *backups) currentBackup(ctx context.Context) (*keybackup.Version, error) {
	var v keybackup.Version
	err := b.Call(ctx, wire.Request{
		Op: "read the backup version", Method: http.MethodGet,
		Path: mautrix.ClientURLPath{"v3", "room_keys", "version"}, Result: &v,
	})
	if wire.Status(err) == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &v, nil
}

// backupKeyMeta is what is stored beside the backup key.
type backupKeyMeta struct {
	// Version is the newest backup version that belonged to the key. If the homeserver has
	// none now, somebody deleted the backup.
	Version string `json:"version,omitempty"`
}

func (b *backups) saveBackupKey(ctx context.Context, key *backup.MegolmBackupKey, version string) error {
	meta, err := json.Marshal(backupKeyMeta{version})
	if err != nil {
		return fmt.Errorf("encode the backup version: %w", err)
	}
	row := store.Secret{Name: identity.SecretBackup, Value: secret.Bytes(key.Bytes()), Meta: meta, CreatedAt: b.Env.Now()}
	if err := b.Save(ctx, &store.Changes{Secrets: []store.Secret{row}}); err != nil {
		return fmt.Errorf("store the backup key: %w", err)
	}
	return nil
}

// CompleteBackup makes a key backup if the account has none, and otherwise looks for the
// key of the existing one, which it never replaces. It returns the private key if it is
// here.
func (b *backups) CompleteBackup(ctx context.Context, keys *identity.Keys, storage *ssss.Key, may ownidentity.Bootstrapping) ([]byte, error) {
	wanted, said, err := b.backupWanted(ctx)
	if err != nil {
		return nil, err
	}
	if !wanted {
		b.acct.setBackupStanding(keybackup.StandingOff)
		return nil, nil
	}
	current, err := b.currentBackup(ctx)
	if err != nil {
		return nil, err
	}
	key, version, err := b.acct.loadBackupKey(ctx)
	switch {
	case err != nil:
		return nil, err
	case current != nil:
		private, err := b.useExistingBackup(ctx, current, key, version, storage)
		if err != nil || private == nil || said {
			return private, err
		}
		return private, b.wantBackup(ctx) // the one who made it stopped before this
	case storage == nil || !may.Create:
		b.acct.setBackupStanding(keybackup.StandingNone) // there is no secret storage to keep its key for the next device
		return nil, nil
	case version != "" && !may.Explicit:
		b.acct.setBackupStanding(keybackup.StandingDeleted)
		return nil, nil
	case key == nil || version != "": // a deleted backup's key is not used again
		if key, err = b.newBackupKey(ctx); err != nil {
			return nil, err
		}
	}
	if err := b.createBackup(ctx, key, keys); err != nil {
		return nil, err
	}
	b.acct.setBackupStanding(keybackup.StandingOurs)
	return key.Bytes(), b.wantBackup(ctx)
}

// ReplaceBackup makes a new backup for a new identity, unless that is done, and returns its
// private key.
func (b *backups) ReplaceBackup(ctx context.Context, keys *identity.Keys) ([]byte, error) {
	private, _, err := b.acct.loadBackupKey(ctx)
	if err != nil {
		return nil, err
	}
	if private == nil {
		if private, err = b.newBackupKey(ctx); err != nil {
			return nil, err
		}
	}
	current, err := b.currentBackup(ctx)
	if err != nil {
		return nil, err
	}
	if !current.Trusts(private) {
		if err := b.createBackup(ctx, private, keys); err != nil {
			return nil, err
		}
	}
	return private.Bytes(), b.wantBackup(ctx)
}

// useExistingBackup decides whether an existing backup can be used: with the stored key, or
// with the one in secret storage.
func (b *backups) useExistingBackup(ctx context.Context, current *keybackup.Version, key *backup.MegolmBackupKey, version string, storage *ssss.Key) ([]byte, error) {
	if !current.Trusts(key) {
		var err error
		if key, err = b.backupKeyFrom(ctx, storage, current); err != nil {
			return nil, err
		}
	}
	if key == nil {
		own, err := b.acct.Tracker.Own(ctx)
		if err != nil {
			return nil, fmt.Errorf("look at the own identity: %w", err)
		}
		if current.SignedBy(own) {
			b.acct.setBackupStanding(keybackup.StandingSigned)
		} else {
			b.acct.setBackupStanding(keybackup.StandingForeign)
		}
		return nil, b.host.WantSecrets(ctx, own)
	}
	if version != current.Version {
		if err := b.saveBackupKey(ctx, key, current.Version); err != nil {
			return nil, err
		}
	}
	b.acct.setBackupStanding(keybackup.StandingOurs)
	return key.Bytes(), nil
}

// backupKeyFrom reads the backup key from secret storage; nil when it is missing or does
// not belong to the backup.
func (b *backups) backupKeyFrom(ctx context.Context, storage *ssss.Key, current *keybackup.Version) (*backup.MegolmBackupKey, error) {
	if storage == nil {
		return nil, nil
	}
	value, err := ownidentity.ReadSecret(ctx, b.Device, storage, identity.SecretBackup)
	if ownidentity.IsRecoveryReason(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := backup.MegolmBackupKeyFromBytes(value.Reveal())
	if err != nil || !current.Trusts(key) {
		return nil, nil
	}
	return key, nil
}

// backupWanted reads from account data whether the user wants a backup (requirement 16.7).
// The default is yes; said is false when there is no valid choice.
func (b *backups) backupWanted(ctx context.Context) (wanted, said bool, err error) {
	raw, err := b.AccountData(ctx, keybackup.AccountDataWanted)
	if err != nil {
		return false, false, err
	}
	var choice struct {
		Enabled *bool `json:"enabled"`
	}
	if raw != nil && json.Unmarshal(raw, &choice) == nil && choice.Enabled != nil {
		return *choice.Enabled, true, nil
	}
	if raw, err = b.AccountData(ctx, keybackup.AccountDataDisabled); err != nil {
		return false, false, err
	}
	var older struct {
		Disabled bool `json:"disabled"`
	}
	refused := raw != nil && json.Unmarshal(raw, &older) == nil && older.Disabled
	return !refused, refused, nil
}

// backupLook is the account's backup, as the homeserver shows it.
type backupLook struct {
	// wanted is false when the user has switched key backup off.
	wanted bool
	// version is empty when there is none; deleted reports whether there was one then.
	version string
	deleted bool
	// trusted reports whether it is known to be the account's own (requirement 16.1),
	// readable whether its private key is here.
	trusted, readable bool
	// count is how many room keys it has, as the homeserver says, and pending how many of
	// this device still have to be uploaded.
	count, pending int
}

// look reads how the account's backup stands.
func (b *backups) look(ctx context.Context, own *trustcache.User) (backupLook, error) {
	var out backupLook
	var err error
	if out.wanted, _, err = b.backupWanted(ctx); err != nil {
		return out, err
	}
	current, err := b.currentBackup(ctx)
	if err != nil {
		return out, err
	}
	key, known, err := b.acct.loadBackupKey(ctx)
	if err != nil {
		return out, err
	}
	if current == nil {
		out.deleted = known != ""
		return out, nil
	}
	out.version, out.count = current.Version, current.Count
	out.readable = current.Trusts(key)
	out.trusted = out.readable || current.SignedBy(own)
	if !out.wanted || !out.trusted {
		return out, nil
	}
	if out.pending, err = b.Env.Store.CountToBackUp(ctx, b.acct.Row, b.RowID, current.Version); err != nil {
		return out, fmt.Errorf("count room keys to back up: %w", err)
	}
	return out, nil
}

// wantBackup tells the user's other clients, in account data, that there is a backup.
func (b *backups) wantBackup(ctx context.Context) error {
	return b.SetAccountData(ctx, keybackup.AccountDataWanted, map[string]bool{"enabled": true})
}

func (b *backups) newBackupKey(ctx context.Context) (*backup.MegolmBackupKey, error) {
	key, err := backup.NewMegolmBackupKey()
	if err != nil {
		return nil, fmt.Errorf("make the backup key: %w", err)
	}
	return key, b.saveBackupKey(ctx, key, "")
}

// createBackup makes a backup version, signed by the identity and this device. The version
// is stored beside the key only once the homeserver shows it.
func (b *backups) createBackup(ctx context.Context, key *backup.MegolmBackupKey, keys *identity.Keys) error {
	auth := strictjson.Object{{Name: "public_key", Value: strictjson.Quote(wire.Base64(key.PublicKey().Bytes()))}}.Encode()
	auth, err := wire.SignWith(auth, b.acct.User, keys.Master)
	if err != nil {
		return err
	}
	if auth, err = b.host.SignAsDevice(auth); err != nil {
		return err
	}
	var made struct {
		Version string `json:"version"`
	}
	err = b.Call(ctx, wire.Request{
		Op: "create the key backup", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "room_keys", "version"},
		Body: map[string]any{"algorithm": keybackup.AlgorithmBackup, "auth_data": auth}, Result: &made,
	})
	if err != nil {
		return err
	}
	return b.saveBackupKey(ctx, key, made.Version)
}
