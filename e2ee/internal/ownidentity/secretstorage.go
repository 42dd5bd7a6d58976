package ownidentity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"maunium.net/go/mautrix/crypto/ssss"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

const (
	accountDataDefaultKey = "m.secret_storage.default_key"
	accountDataStorageKey = "m.secret_storage.key."
)

// ChangesOwnSide reports whether account data is about secret storage or the key backup
// (requirement 16.7).
func ChangesOwnSide(events []json.RawMessage) bool {
	return slices.ContainsFunc(events, func(raw json.RawMessage) bool {
		var ev struct {
			Type string `json:"type"`
		}
		if json.Unmarshal(raw, &ev) != nil {
			return false
		}
		switch ev.Type {
		case accountDataDefaultKey, keybackup.AccountDataWanted, keybackup.AccountDataDisabled, identity.SecretMaster, identity.SecretSelfSigning, identity.SecretUserSigning, identity.SecretBackup:
			return true
		default:
			return strings.HasPrefix(ev.Type, accountDataStorageKey)
		}
	})
}

// defaultStorage returns the description of the default key; nil when there is no default
// key or no description of it. A malformed description is ErrNoSecretStorage.
func (o *Identity) defaultStorage(ctx context.Context) (*storageDescription, error) {
	raw, err := o.AccountData(ctx, accountDataDefaultKey)
	if err != nil || raw == nil {
		return nil, err
	}
	var def struct {
		Key string `json:"key"`
	}
	if json.Unmarshal(raw, &def) != nil || def.Key == "" {
		return nil, nil // a missing or malformed default key counts as none
	}
	if raw, err = o.AccountData(ctx, accountDataStorageKey+def.Key); err != nil || raw == nil {
		return nil, err
	}
	out := &storageDescription{ID: def.Key}
	if json.Unmarshal(raw, &out.Meta) != nil || out.Meta.Algorithm != ssss.AlgorithmAESHMACSHA2 {
		return nil, core.ErrNoSecretStorage
	}
	return out, nil
}

// StorageLook is what secret storage has, as the homeserver shows it.
type StorageLook struct {
	DefaultKey string // empty when there is none that can be used
	// complete reports whether the default key encrypts all that belongs there (requirements
	// 1.4, 1.5), ofAnother whether that was another identity's when it last changed.
	Complete  bool
	OfAnother bool
}

// LookAtStorage reads what secret storage has; hasBackup means that it must have the backup
// key, too.
func (o *Identity) LookAtStorage(ctx context.Context, hasBackup bool) (StorageLook, error) {
	described, err := o.defaultStorage(ctx)
	if err != nil && !errors.Is(err, core.ErrNoSecretStorage) {
		return StorageLook{}, err
	}
	if described == nil {
		return StorageLook{}, nil
	}
	complete, err := o.holdsSecrets(ctx, described.ID, hasBackup)
	return StorageLook{described.ID, complete, o.acct.Storage() == StorageIncomplete}, err
}

// completeStorage makes secret storage with a default key and a key backup where there is
// none, and stores the secrets (requirements 1.3 to 1.5). opened is the key of secret
// storage, if the caller has just used it. Secret storage whose key is not here stays as it
// is; one that was deleted is made again only when a person asks for it.
func (o *Identity) completeStorage(ctx context.Context, keys *identity.Keys, opened *ssss.Key, may Bootstrapping) error {
	described, err := o.defaultStorage(ctx)
	if err != nil && !errors.Is(err, core.ErrNoSecretStorage) {
		return err
	}
	usable := err == nil
	had, err := o.acct.hadStorage(ctx)
	if err != nil {
		return err
	}
	key := opened
	if key == nil && usable {
		if key, err = o.storageKey(ctx, described, may.Create && (may.Explicit || !had)); err != nil {
			return err
		}
	}
	private, err := o.host.CompleteBackup(ctx, keys, key, may)
	if err != nil {
		return err
	}
	if key == nil {
		return o.judgeStorage(ctx, described, private != nil)
	}
	secrets := keys.ByName()
	if private != nil {
		secrets[identity.SecretBackup] = private
	}
	standing := StorageComplete
	for name, value := range secrets {
		how := keepAnother
		if may.Explicit || name == identity.SecretBackup { // it was compared with the backup in use
			how = replaceAnother
		}
		err := o.storeSecret(ctx, key, name, value, how)
		switch {
		case errors.Is(err, errAnotherSecret):
			standing = StorageIncomplete
		case err != nil:
			return err
		}
	}
	// Last: a client that finds a default key finds the secrets, too.
	if described == nil || described.ID != key.ID {
		if err := o.makeDefault(ctx, key); err != nil {
			return err
		}
	}
	o.acct.setStorageStanding(standing)
	return o.sawStorage(ctx)
}

// secretStorageSeen is stored once the account has had a default key.
const secretStorageSeen = "secret_storage_seen"

func (a *Account) hadStorage(ctx context.Context) (bool, error) {
	_, err := a.Env.Store.Secret(ctx, a.Row, secretStorageSeen)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, fmt.Errorf("load whether there was secret storage: %w", err)
	}
	return err == nil, nil
}

// sawStorage records that the account has secret storage. If it is gone later, another
// client deleted it, as clients do during a reset of the identity: it is made again only
// when a person asks for it, not between the steps of that reset.
func (o *Identity) sawStorage(ctx context.Context) error {
	if had, err := o.acct.hadStorage(ctx); had || err != nil {
		return err
	}
	row := store.Secret{Name: secretStorageSeen, Value: secret.Bytes("1"), CreatedAt: o.Env.Now()}
	if err := o.Save(ctx, &store.Changes{Secrets: []store.Secret{row}}); err != nil {
		return fmt.Errorf("store that there is secret storage: %w", err)
	}
	return nil
}

// judgeStorage sets the state of a secret storage whose key is not here.
func (o *Identity) judgeStorage(ctx context.Context, described *storageDescription, hasBackup bool) error {
	if described == nil {
		o.acct.setStorageStanding(StorageMissing)
		return nil
	}
	complete, err := o.holdsSecrets(ctx, described.ID, hasBackup)
	if err != nil {
		return err
	}
	if complete {
		o.acct.setStorageStanding(StorageComplete)
	} else {
		o.acct.setStorageStanding(StorageIncomplete)
	}
	return o.sawStorage(ctx)
}

// holdsSecrets reports whether secret storage has the identity, and the backup key if
// wanted, encrypted with a key. Whether they are the right ones cannot be told without the
// key.
func (o *Identity) holdsSecrets(ctx context.Context, keyID string, backup bool) (bool, error) {
	names := []string{identity.SecretMaster, identity.SecretSelfSigning, identity.SecretUserSigning}
	if backup {
		names = append(names, identity.SecretBackup)
	}
	for _, name := range names {
		raw, err := o.AccountData(ctx, name)
		if err != nil {
			return false, err
		}
		var content struct {
			Encrypted map[string]json.RawMessage `json:"encrypted"`
		}
		if raw == nil || json.Unmarshal(raw, &content) != nil || content.Encrypted[keyID] == nil {
			return false, nil
		}
	}
	return true, nil
}

// storageKey returns the key of secret storage if it is here: made by us, or configured.
// With create it makes one if the account has none.
func (o *Identity) storageKey(ctx context.Context, described *storageDescription, create bool) (*ssss.Key, error) {
	mine, err := o.acct.ownStorageKey(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case described != nil && mine != nil && mine.ID == described.ID:
		return mine, nil
	case described != nil:
		return o.configuredKey(described)
	case !create:
		return nil, nil
	case mine == nil:
		return o.newStorageKey(ctx)
	default:
		return mine, nil
	}
}

// configuredKey returns the configured key of secret storage. Nothing is encrypted with a
// key that the description cannot confirm: a homeserver could choose a passphrase
// derivation that is cheap to guess.
func (o *Identity) configuredKey(described *storageDescription) (*ssss.Key, error) {
	if !described.checkable() {
		return nil, nil
	}
	for _, with := range o.acct.configured() {
		key, err := described.open(with)
		if err == nil {
			return key, nil
		}
		if !errors.Is(err, core.ErrWrongRecoveryKey) && !errors.Is(err, core.ErrNoPassphrase) && !errors.Is(err, core.ErrNoSecretStorage) {
			return nil, err
		}
	}
	return nil, nil
}

// makeDefault uploads a key's description and makes it the default key (requirement 14.4).
func (o *Identity) makeDefault(ctx context.Context, key *ssss.Key) error {
	if err := o.SetAccountData(ctx, accountDataStorageKey+key.ID, key.Metadata); err != nil {
		return err
	}
	return o.SetAccountData(ctx, accountDataDefaultKey, map[string]string{"key": key.ID})
}

// storageMeta is stored beside the recovery key.
type storageMeta struct {
	ID       string            `json:"id"`
	Metadata *ssss.KeyMetadata `json:"metadata"`
}

// ownStorageKey returns the key of a secret storage that we made, nil when we made none.
func (a *Account) ownStorageKey(ctx context.Context) (*ssss.Key, error) {
	stored, err := a.Env.Store.Secret(ctx, a.Row, identity.SecretStorageKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load the recovery key: %w", err)
	}
	var meta storageMeta
	if err := json.Unmarshal(stored.Meta, &meta); err != nil {
		return nil, fmt.Errorf("read the recovery key: %w", err)
	}
	return &ssss.Key{ID: meta.ID, Key: stored.Value.Reveal(), Metadata: meta.Metadata}, nil
}

// newStorageKey makes a key and stores it before anything is encrypted with it.
func (o *Identity) newStorageKey(ctx context.Context) (*ssss.Key, error) {
	key, err := checkableKey()
	if err != nil {
		return nil, fmt.Errorf("make the key of secret storage: %w", err)
	}
	meta, err := json.Marshal(storageMeta{key.ID, key.Metadata})
	if err != nil {
		return nil, fmt.Errorf("encode the key of secret storage: %w", err)
	}
	row := store.Secret{Name: identity.SecretStorageKey, Value: secret.Bytes(key.Key), Meta: meta, CreatedAt: o.Env.Now()}
	if err := o.Save(ctx, &store.Changes{DeleteSecrets: []string{identity.SecretRecoveryRead}, Secrets: []store.Secret{row}}); err != nil {
		return nil, fmt.Errorf("store the key of secret storage: %w", err)
	}
	return key, nil
}

// storing is what happens to other values of a secret. The zero value changes none.
type storing int

const (
	// keepAnother keeps another value under the same key. Clients store a new identity
	// before they publish it, so it may be the only copy.
	keepAnother storing = iota
	// replaceAnother replaces that value.
	replaceAnother
	// replaceAll also removes values under other keys, because they belong to an identity
	// that was replaced.
	replaceAll
)

// errAnotherSecret means that another value is stored under the same key.
var errAnotherSecret = errors.New("secret storage holds another value under the same key")

// storeSecret stores a secret in secret storage under a key, unless it is there. See
// storing for other values.
func (o *Identity) storeSecret(ctx context.Context, key *ssss.Key, name string, value []byte, how storing) error {
	raw, err := o.AccountData(ctx, name)
	if err != nil {
		return err
	}
	content, err := strictjson.Parse(raw)
	if err != nil {
		content = nil // it is no valid secret, so nothing is lost
	}
	entries, err := strictjson.Parse(content.Get("encrypted"))
	if err != nil {
		entries = nil
	}
	others := len(entries)
	if mine := entries.Get(key.ID); mine != nil {
		others--
		var sealed ssss.EncryptedKeyData
		if json.Unmarshal(mine, &sealed) == nil {
			have, err := key.Decrypt(name, sealed)
			switch same := err == nil && bytes.Equal(have, value); {
			case same && (how != replaceAll || others == 0):
				return nil
			case err == nil && !same && how == keepAnother:
				return errAnotherSecret
			}
		}
	}
	if how == replaceAll {
		entries, content = nil, nil
	}
	sealed, err := json.Marshal(key.Encrypt(name, value))
	if err != nil {
		return fmt.Errorf("encode a secret: %w", err)
	}
	return o.SetAccountData(ctx, name, content.Set("encrypted", entries.Set(key.ID, sealed).Encode()).Encode())
}
