package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/crypto/ssss"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Recovery is a recovery key or a passphrase: exactly one of them.
type Recovery struct {
	Key        secret.String
	Passphrase secret.String
}

// maxIterations bounds what a hostile key description can make a passphrase cost.
const maxIterations = 10_000_000

// Recover takes the identity and the backup key from secret storage and signs this
// device. Nothing is changed unless everything fits: seeds are used only if the public
// keys derived from them are the published ones (requirement 14.7).
func (d *Device) Recover(ctx context.Context, with Recovery) error {
	if d.mode != ModeProxied {
		return ErrNotProxied
	}
	if err := d.uploadNow(ctx); err != nil {
		return err
	}
	give, err := d.acct.boot.take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	own, err := d.readOwn(ctx, true)
	if err != nil {
		return err
	}
	if own.Current == "" {
		return ErrNoIdentity
	}
	key, err := d.openStorage(ctx, with)
	if err != nil {
		return err
	}
	keys, err := d.recoverKeys(ctx, key, own)
	if err != nil {
		return err
	}
	rows := keys.secrets()
	if backupKey, err := d.recoverBackupKey(ctx, key); err != nil {
		return err
	} else if backupKey != nil {
		rows = append(rows, store.Secret{Name: secretBackup, Value: backupKey, CreatedAt: d.eng.now()})
	}
	if err := d.save(ctx, &store.Changes{Secrets: rows}); err != nil {
		return fmt.Errorf("store the recovered identity: %w", err)
	}
	return d.useIdentity(ctx, own, keys)
}

// openStorage gives the default key of secret storage if what the caller has opens it.
func (d *Device) openStorage(ctx context.Context, with Recovery) (*ssss.Key, error) {
	raw, err := d.accountData(ctx, accountDataDefaultKey)
	if err != nil {
		return nil, err
	}
	var def struct {
		Key string `json:"key"`
	}
	if raw == nil || json.Unmarshal(raw, &def) != nil || def.Key == "" {
		return nil, ErrNoSecretStorage
	}
	if raw, err = d.accountData(ctx, "m.secret_storage.key."+def.Key); err != nil {
		return nil, err
	}
	var meta ssss.KeyMetadata
	if raw == nil || json.Unmarshal(raw, &meta) != nil || meta.Algorithm != ssss.AlgorithmAESHMACSHA2 {
		return nil, ErrNoSecretStorage
	}
	var key *ssss.Key
	if with.Key.IsZero() {
		if meta.Passphrase == nil {
			return nil, ErrNoPassphrase
		}
		if meta.Passphrase.Iterations <= 0 || meta.Passphrase.Iterations > maxIterations || meta.Passphrase.Bits < 0 || meta.Passphrase.Bits > 512 {
			return nil, ErrNoSecretStorage
		}
		key, err = meta.VerifyPassphrase(def.Key, with.Passphrase.Reveal())
	} else {
		key, err = meta.VerifyRecoveryKey(def.Key, with.Key.Reveal())
	}
	switch {
	case errors.Is(err, ssss.ErrUnverifiableKey): // the secrets will tell (requirement 14.2)
		return key, nil
	case errors.Is(err, ssss.ErrCorruptedKeyMetadata), errors.Is(err, ssss.ErrUnsupportedPassphraseAlgorithm):
		return nil, ErrNoSecretStorage
	case err != nil:
		return nil, ErrWrongRecoveryKey
	}
	return key, nil
}

// readSecret decrypts one secret; ErrSecretMissing when it is not there.
func (d *Device) readSecret(ctx context.Context, key *ssss.Key, name string) (secret.Bytes, error) {
	raw, err := d.accountData(ctx, name)
	if err != nil {
		return nil, err
	}
	var content ssss.EncryptedAccountDataEventContent
	if raw == nil || json.Unmarshal(raw, &content) != nil {
		return nil, ErrSecretMissing
	}
	value, err := content.Decrypt(name, key)
	switch {
	case errors.Is(err, ssss.ErrNotEncryptedForKey):
		return nil, ErrSecretMissing
	case err != nil:
		return nil, ErrWrongRecoveryKey
	}
	return value, nil
}

// recoverKeys reads the three seeds and compares what they make with what is published.
func (d *Device) recoverKeys(ctx context.Context, key *ssss.Key, own *trustcache.User) (*crossSigning, error) {
	var c crossSigning
	for _, part := range []struct {
		name   string
		public string
		slot   **pk.Signing
	}{
		{secretMaster, own.Current.String(), &c.master},
		{secretSelfSigning, own.SelfSigning.String(), &c.selfSigning},
		{secretUserSigning, own.UserSigning.String(), &c.userSigning},
	} {
		seed, err := d.readSecret(ctx, key, part.name)
		if err != nil {
			return nil, err
		}
		if *part.slot, err = pk.NewSigningFromSeed(seed.Reveal()); err != nil || (*part.slot).PublicKey().String() != part.public {
			return nil, ErrSecretMismatch
		}
	}
	return &c, nil
}

// recoverBackupKey reads the backup key if it is there and belongs to the newest backup.
func (d *Device) recoverBackupKey(ctx context.Context, key *ssss.Key) (secret.Bytes, error) {
	value, err := d.readSecret(ctx, key, secretBackup)
	if errors.Is(err, ErrSecretMissing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	private, err := backup.MegolmBackupKeyFromBytes(value.Reveal())
	if err != nil {
		return nil, nil
	}
	current, err := d.currentBackup(ctx)
	if err != nil || !current.trusts(private) {
		return nil, err
	}
	return value, nil
}

// useIdentity takes stored keys into use: the account's own identity is verified, and
// this device signed.
func (d *Device) useIdentity(ctx context.Context, own *trustcache.User, keys *crossSigning) error {
	if _, err := d.acct.tracker.SetOwnIdentity(ctx, keys.master.PublicKey()); err != nil {
		return fmt.Errorf("trust the own identity: %w", err)
	}
	if d.ownNow() != ownSigned {
		return d.signSelf(ctx, own, keys)
	}
	return nil
}
