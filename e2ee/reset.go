package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/crypto/goolm/pk"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// secretReset holds the seeds of an identity that is to replace the published one. It
// is there from before the publication until everything that follows is done, so that
// an interrupted reset goes on where it stopped.
const secretReset = "reset"

// resetPlan is what secretReset says.
type resetPlan struct {
	Master      []byte `json:"master"`
	SelfSigning []byte `json:"self_signing"`
	UserSigning []byte `json:"user_signing"`
}

// Reset makes a new identity, secret storage and backup, and gives the recovery key.
// Until the homeserver shows the new identity nothing of the old is touched; from then
// on every step can be repeated, here or by the next maintenance.
func (d *Device) Reset(ctx context.Context, auth UserAuth) (secret.String, error) {
	if d.mode != ModeProxied {
		return secret.String{}, ErrNotProxied
	}
	if err := d.uploadNow(ctx); err != nil {
		return secret.String{}, err
	}
	give, err := d.acct.boot.take(ctx, struct{}{})
	if err != nil {
		return secret.String{}, err
	}
	defer give()
	keys, err := d.resetKeys(ctx, true)
	if err != nil {
		return secret.String{}, err
	}
	if _, err := d.acct.tracker.SetOwnIdentity(ctx, keys.master.PublicKey()); err != nil {
		return secret.String{}, fmt.Errorf("trust the own identity: %w", err)
	}
	if auth.Password.IsZero() && auth.Stage == nil {
		auth.Password = d.acct.takePassword()
	}
	if err := d.publish(ctx, keys, auth); err != nil {
		return secret.String{}, err
	}
	if err := d.finishReset(ctx, keys); err != nil {
		return secret.String{}, err
	}
	return d.acct.recoveryKey(ctx)
}

// resetKeys gives the identity of a reset under way; nil when none is and none is to be begun.
func (d *Device) resetKeys(ctx context.Context, begin bool) (*crossSigning, error) {
	stored, err := d.eng.store.Secret(ctx, d.acct.row, secretReset)
	if errors.Is(err, store.ErrNotFound) {
		if !begin {
			return nil, nil
		}
		return d.beginReset(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("load the reset under way: %w", err)
	}
	var plan resetPlan
	if err := json.Unmarshal(stored.Value.Reveal(), &plan); err != nil {
		return nil, fmt.Errorf("read the reset under way: %w", errMalformed)
	}
	var c crossSigning
	for _, part := range []struct {
		seed []byte
		slot **pk.Signing
	}{{plan.Master, &c.master}, {plan.SelfSigning, &c.selfSigning}, {plan.UserSigning, &c.userSigning}} {
		if *part.slot, err = pk.NewSigningFromSeed(part.seed); err != nil {
			return nil, fmt.Errorf("read the reset under way: %w", err)
		}
	}
	return &c, nil
}

func (d *Device) beginReset(ctx context.Context) (*crossSigning, error) {
	keys, err := newCrossSigning()
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(resetPlan{keys.master.Seed(), keys.selfSigning.Seed(), keys.userSigning.Seed()})
	if err != nil {
		return nil, fmt.Errorf("encode the reset: %w", err)
	}
	row := store.Secret{Name: secretReset, Value: raw, CreatedAt: d.eng.now()}
	if err := d.save(ctx, &store.Changes{Secrets: []store.Secret{row}}); err != nil {
		return nil, fmt.Errorf("store the reset: %w", err)
	}
	return keys, nil
}

// finishReset takes a published identity into use: device signed, secret storage and
// backup new. It can be repeated.
func (d *Device) finishReset(ctx context.Context, keys *crossSigning) error {
	own, err := d.readOwn(ctx, true)
	if err != nil {
		return err
	}
	if own.Current != keys.master.PublicKey() {
		return errNotPublished
	}
	current, err := d.acct.loadCrossSigning(ctx)
	if err != nil {
		return err
	}
	if current == nil || current.master.PublicKey() != keys.master.PublicKey() {
		// The old storage key and backup key belong to the old identity.
		ch := &store.Changes{Secrets: keys.secrets(), DeleteSecrets: []string{secretStorageKey, secretBackup}}
		if err := d.save(ctx, ch); err != nil {
			return fmt.Errorf("store the new identity: %w", err)
		}
	}
	if err := d.useIdentity(ctx, own, keys); err != nil {
		return err
	}
	if err := d.replaceStorage(ctx, keys); err != nil {
		return err
	}
	if err := d.save(ctx, &store.Changes{DeleteSecrets: []string{secretReset}}); err != nil {
		return fmt.Errorf("store the end of the reset: %w", err)
	}
	return nil
}

// replaceStorage makes secret storage and backup anew, whatever was there.
func (d *Device) replaceStorage(ctx context.Context, keys *crossSigning) error {
	key, _, err := d.acct.ownStorageKey(ctx)
	if err != nil {
		return err
	}
	if key == nil {
		if key, err = d.newStorageKey(ctx); err != nil {
			return err
		}
	}
	private, err := d.acct.loadBackupKey(ctx)
	if err != nil {
		return err
	}
	if private == nil {
		if private, err = d.newBackupKey(ctx); err != nil {
			return err
		}
	}
	current, err := d.currentBackup(ctx)
	if err != nil {
		return err
	}
	if !current.trusts(private) {
		if err := d.createBackup(ctx, private, keys); err != nil {
			return err
		}
	}
	for name, value := range map[string][]byte{
		secretMaster: keys.master.Seed(), secretSelfSigning: keys.selfSigning.Seed(),
		secretUserSigning: keys.userSigning.Seed(), secretBackup: private.Bytes(),
	} {
		if err := d.storeSecret(ctx, key, name, value); err != nil {
			return err
		}
	}
	// Last: until everything is in it, the default key stays the old one.
	if err := d.setAccountData(ctx, "m.secret_storage.key."+key.ID, key.Metadata); err != nil {
		return err
	}
	return d.setAccountData(ctx, accountDataDefaultKey, map[string]string{"key": key.ID})
}
