package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/crypto/utils"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

const accountDataDefaultKey = "m.secret_storage.default_key"

// accountData reads a global account data value; nil when there is none.
func (d *Device) accountData(ctx context.Context, name string) (json.RawMessage, error) {
	var raw json.RawMessage
	err := d.call(ctx, request{
		op: "read account data", method: http.MethodGet,
		path: mautrix.ClientURLPath{"v3", "user", d.acct.user, "account_data", name}, result: &raw,
	})
	if upstreamStatus(err) == http.StatusNotFound {
		return nil, nil
	}
	return raw, err
}

func (d *Device) setAccountData(ctx context.Context, name string, value any) error {
	return d.call(ctx, request{
		op: "write account data", method: http.MethodPut,
		path: mautrix.ClientURLPath{"v3", "user", d.acct.user, "account_data", name}, body: value,
	})
}

// completeStorage makes secret storage with a default key if there is none, and a key
// backup if there is none, and stores the secrets in it (requirements 1.3 to 1.5). It
// never changes a secret storage that was there before: its key is not ours.
func (d *Device) completeStorage(ctx context.Context, keys *crossSigning) error {
	key, err := d.storageKey(ctx)
	if err != nil || key == nil {
		return err
	}
	backup, err := d.ensureBackup(ctx, keys)
	if err != nil {
		return err
	}
	secrets := map[string][]byte{
		secretMaster: keys.master.Seed(), secretSelfSigning: keys.selfSigning.Seed(), secretUserSigning: keys.userSigning.Seed(),
	}
	if backup != nil {
		secrets[secretBackup] = backup
	}
	for name, value := range secrets {
		if err := d.storeSecret(ctx, key, name, value); err != nil {
			return err
		}
	}
	return nil
}

// storageKey gives the key of secret storage if we made it, making it if the account
// has none; nil when the account's secret storage is somebody else's.
func (d *Device) storageKey(ctx context.Context) (*ssss.Key, error) {
	raw, err := d.accountData(ctx, accountDataDefaultKey)
	if err != nil {
		return nil, err
	}
	var def struct {
		Key string `json:"key"`
	}
	if raw != nil && json.Unmarshal(raw, &def) != nil {
		return nil, fmt.Errorf("%w: default key of secret storage", errMalformed)
	}
	mine, meta, err := d.acct.ownStorageKey(ctx)
	if err != nil {
		return nil, err
	}
	if def.Key != "" {
		if mine == nil || meta.ID != def.Key {
			return nil, nil
		}
		return mine, nil
	}
	if mine == nil {
		if mine, err = d.newStorageKey(ctx); err != nil {
			return nil, err
		}
	}
	if err := d.setAccountData(ctx, "m.secret_storage.key."+mine.ID, mine.Metadata); err != nil {
		return nil, err
	}
	return mine, d.setAccountData(ctx, accountDataDefaultKey, map[string]string{"key": mine.ID})
}

// storageMeta is what is stored beside the recovery key.
type storageMeta struct {
	ID       string            `json:"id"`
	Metadata *ssss.KeyMetadata `json:"metadata"`
}

// ownStorageKey gives the key of the secret storage that we made, nil when we made none.
func (a *account) ownStorageKey(ctx context.Context) (*ssss.Key, storageMeta, error) {
	stored, err := a.eng.store.Secret(ctx, a.row, secretStorageKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil, storageMeta{}, nil
	}
	if err != nil {
		return nil, storageMeta{}, fmt.Errorf("load the recovery key: %w", err)
	}
	var meta storageMeta
	if err := json.Unmarshal(stored.Meta, &meta); err != nil {
		return nil, storageMeta{}, fmt.Errorf("read the recovery key: %w", err)
	}
	return &ssss.Key{ID: meta.ID, Key: stored.Value.Reveal(), Metadata: meta.Metadata}, meta, nil
}

// newStorageKey makes a key and stores it before anything is encrypted with it.
func (d *Device) newStorageKey(ctx context.Context) (*ssss.Key, error) {
	key, err := ssss.NewKey("")
	if err != nil {
		return nil, fmt.Errorf("make the key of secret storage: %w", err)
	}
	meta, err := json.Marshal(storageMeta{key.ID, key.Metadata})
	if err != nil {
		return nil, fmt.Errorf("encode the key of secret storage: %w", err)
	}
	row := store.Secret{Name: secretStorageKey, Value: secret.Bytes(key.Key), Meta: meta, CreatedAt: d.eng.now()}
	if err := d.save(ctx, &store.Changes{Secrets: []store.Secret{row}}); err != nil {
		return nil, fmt.Errorf("store the key of secret storage: %w", err)
	}
	return key, nil
}

// storeSecret puts a secret into secret storage under our key, unless it is there.
func (d *Device) storeSecret(ctx context.Context, key *ssss.Key, name string, value []byte) error {
	raw, err := d.accountData(ctx, name)
	if err != nil {
		return err
	}
	var content ssss.EncryptedAccountDataEventContent
	if raw != nil && json.Unmarshal(raw, &content) != nil {
		return fmt.Errorf("%w: a secret in secret storage", errMalformed)
	}
	if have, err := content.Decrypt(name, key); err == nil && string(have) == string(value) {
		return nil
	}
	if content.Encrypted == nil {
		content.Encrypted = make(map[string]ssss.EncryptedKeyData, 1)
	}
	content.Encrypted[key.ID] = key.Encrypt(name, value)
	return d.setAccountData(ctx, name, map[string]any{"encrypted": content.Encrypted})
}

// RecoveryKey gives the recovery key that a bootstrap made, in the form people write
// down (requirement 14.6).
func (a *account) recoveryKey(ctx context.Context) (secret.String, error) {
	key, _, err := a.ownStorageKey(ctx)
	if err != nil {
		return secret.String{}, err
	}
	if key == nil {
		return secret.String{}, ErrNoRecoveryKey
	}
	return secret.NewString(utils.EncodeBase58RecoveryKey(key.Key)), nil
}
