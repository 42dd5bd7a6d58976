package ownidentity

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/crypto/ssss"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Recovery is a recovery key or a passphrase, exactly one of them.
type Recovery struct {
	Key        secret.String
	Passphrase secret.String
	// Restore also restores the whole history from the key backup.
	Restore bool
}

// Recover opens secret storage, takes the identity from there and uses it.
func (o *Identity) Recover(ctx context.Context, with Recovery) error {
	o.signAgain()
	give, err := o.acct.boot.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	own, err := o.ReadOwn(ctx, true)
	switch {
	case err != nil:
		return err
	case own.Knowledge != trustcache.KnowledgeFresh:
		return errOwnUnknown
	case own.Current == "":
		return core.ErrNoIdentity
	}
	described, err := o.defaultStorage(ctx)
	if err != nil {
		return err
	}
	if described == nil {
		return core.ErrNoSecretStorage
	}
	key, err := described.open(with)
	if err != nil {
		return err
	}
	keys, err := o.recoverIdentity(ctx, own, key)
	if err != nil {
		return err
	}
	return o.adopt(ctx, own, keys, key, Bootstrapping{Create: true})
}

// recoverIdentity reads the identity from secret storage and stores it.
func (o *Identity) recoverIdentity(ctx context.Context, own *trustcache.User, key *ssss.Key) (*identity.Keys, error) {
	keys, err := o.recoverKeys(ctx, key, own)
	if err != nil {
		return nil, err
	}
	done := auditing.Of(o.Device, audit.KindRecovery, "master key "+keys.Master.PublicKey().String())
	if err := o.Save(ctx, &store.Changes{Secrets: keys.Secrets(), Audit: done}); err != nil {
		return nil, fmt.Errorf("store the recovered identity: %w", err)
	}
	return keys, nil
}

// configured returns the configured ways to open secret storage.
func (a *Account) configured() []Recovery {
	var out []Recovery
	settings := a.Settings()
	if !settings.RecoveryKey.IsZero() {
		out = append(out, Recovery{Key: settings.RecoveryKey})
	}
	if !settings.Passphrase.IsZero() {
		out = append(out, Recovery{Passphrase: settings.Passphrase})
	}
	return out
}

// recoverAlone recovers the identity without a person: with the configured recovery key or
// passphrase, or the key of a secret storage that we made. It returns nil if that does not
// work. The same attempt on the same secret storage is not repeated, because deriving a key
// from a passphrase is costly.
func (o *Identity) recoverAlone(ctx context.Context, own *trustcache.User) (*identity.Keys, *ssss.Key, error) {
	mine, err := o.acct.ownStorageKey(ctx)
	if err != nil {
		return nil, nil, err
	}
	ways := o.acct.configured()
	if mine == nil && len(ways) == 0 {
		return nil, nil, nil
	}
	described, err := o.defaultStorage(ctx)
	if err != nil && !errors.Is(err, core.ErrNoSecretStorage) {
		return nil, nil, err
	}
	if described == nil {
		return nil, nil, nil
	}
	attempt, err := o.attempt(ctx, own, described)
	if err != nil {
		return nil, nil, err
	}
	if o.acct.triedBefore(attempt) {
		return nil, nil, nil
	}
	var candidates []*ssss.Key
	if mine != nil && mine.ID == described.ID {
		candidates = append(candidates, mine)
	}
	for _, with := range ways {
		key, err := described.open(with)
		if err == nil {
			candidates = append(candidates, key)
		} else {
			o.Env.Log.Warn().Err(err).Stringer("account", o.acct.User).Msg("The configured recovery key does not open secret storage")
		}
	}
	for _, key := range candidates {
		keys, err := o.recoverIdentity(ctx, own, key)
		if err == nil {
			return keys, key, nil
		}
		if !IsRecoveryReason(err) {
			return nil, nil, err
		}
		o.Env.Log.Warn().Err(err).Stringer("account", o.acct.User).Msg("The identity could not be recovered")
	}
	o.acct.rememberAttempt(attempt)
	return nil, nil, nil
}

// attempt returns a hash of everything that decides whether the identity can be recovered.
// Secret storage is part of it: another client may publish an identity first and store its
// seeds later.
func (o *Identity) attempt(ctx context.Context, own *trustcache.User, described *storageDescription) ([32]byte, error) {
	name := sha256.New()
	for _, part := range []string{described.ID, described.Meta.MAC, own.Current.String()} {
		_, _ = name.Write(append([]byte(part), 0)) // a hash never fails
	}
	for _, secret := range []string{identity.SecretMaster, identity.SecretSelfSigning, identity.SecretUserSigning} {
		raw, err := o.AccountData(ctx, secret)
		if err != nil {
			return [32]byte{}, err
		}
		_, _ = name.Write(append(raw, 0))
	}
	return [32]byte(name.Sum(nil)), nil
}

// IsRecoveryReason reports whether the same attempt would fail again.
func IsRecoveryReason(err error) bool {
	return errors.Is(err, core.ErrWrongRecoveryKey) || errors.Is(err, core.ErrSecretMissing) || errors.Is(err, core.ErrSecretMismatch)
}

// ReadSecret decrypts one secret; ErrSecretMissing when there is none under this key.
func ReadSecret(ctx context.Context, p *core.Device, key *ssss.Key, name string) (secret.Bytes, error) {
	raw, err := p.AccountData(ctx, name)
	if err != nil {
		return nil, err
	}
	var content ssss.EncryptedAccountDataEventContent
	if raw == nil || json.Unmarshal(raw, &content) != nil {
		return nil, core.ErrSecretMissing
	}
	value, err := content.Decrypt(name, key)
	switch {
	case errors.Is(err, ssss.ErrNotEncryptedForKey):
		return nil, core.ErrSecretMissing
	case errors.Is(err, ssss.ErrKeyDataMACMismatch) && key.Metadata != nil && key.Metadata.MAC != "":
		return nil, core.ErrSecretMismatch // the key is the right one: the secret is damaged
	case errors.Is(err, ssss.ErrKeyDataMACMismatch):
		return nil, core.ErrWrongRecoveryKey
	case err != nil:
		return nil, core.ErrSecretMismatch // the right key, but no base64 inside
	}
	return value, nil
}

// recoverKeys reads the three seeds and checks that they belong to the published identity.
func (o *Identity) recoverKeys(ctx context.Context, key *ssss.Key, own *trustcache.User) (*identity.Keys, error) {
	var c identity.Keys
	slots := c.Slots()
	for _, name := range []string{identity.SecretMaster, identity.SecretSelfSigning, identity.SecretUserSigning} { // a fixed order, for the same error every time
		seed, err := ReadSecret(ctx, o.Device, key, name)
		if err != nil {
			return nil, err
		}
		slot := slots[name]
		if *slot, err = pk.NewSigningFromSeed(seed.Reveal()); err != nil || (*slot).PublicKey() != identity.PublishedKey(own, name) {
			return nil, core.ErrSecretMismatch
		}
	}
	return &c, nil
}

// adopt takes a recovered identity into use and completes secret storage and
// backup, also if the homeserver does not show the new signature of this device.
func (o *Identity) adopt(ctx context.Context, own *trustcache.User, keys *identity.Keys, opened *ssss.Key, may Bootstrapping) error {
	signed := o.use(ctx, own, keys)
	if signed != nil && !signatureFailed(signed) {
		return signed
	}
	o.acct.password.forget()
	return cmp.Or(o.completeStorage(ctx, keys, opened, may), signed)
}

// use marks the own identity as verified by its stored keys, and signs this device.
func (o *Identity) use(ctx context.Context, own *trustcache.User, keys *identity.Keys) error {
	if _, err := o.acct.Tracker.SetOwnIdentity(ctx, keys.Master.PublicKey()); err != nil {
		return fmt.Errorf("trust the own identity: %w", err)
	}
	now, err := o.acct.Tracker.Own(ctx)
	if err != nil {
		return fmt.Errorf("look at the own identity: %w", err)
	}
	o.updateState(now, false) // nothing newer than what ReadOwn saw
	if o.State() != Signed {
		return o.signSelf(ctx, own, keys)
	}
	return nil
}
