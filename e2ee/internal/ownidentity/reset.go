package ownidentity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/crypto/goolm/pk"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// A reset replaces the identity by one upload. Before it only a record, secretReset, is
// stored, with the new identity's seeds: the old identity is untouched, and an abandoned
// reset changes nothing. The homeserver accepts the upload as a whole or not at all. Every
// step after it checks what is there and can be repeated, by the next maintenance and after
// a crash too, until the record is deleted at the end. So at any time there is either the
// complete old identity, or the new one and the record that completes it.
//
//  1. the record is stored
//  2. the new identity is published (user-interactive auth)
//  3. its seeds take the place of the old ones; the old recovery key and backup key go
//  4. it is verified, and this device signed
//  5. a new recovery key and a new backup key are stored, and the backup made
//  6. the secrets go into secret storage under the new key, which becomes the default
//  7. it is stored for which requests it was done, and the record is deleted
//
// A request that is made again, because the replica that had it was killed, finds itself in the
// record, or that it was done.
const (
	secretReset = "reset"
	// maxResetRequests is how many requests for one reset are known again.
	maxResetRequests = 8
)

// resetPlan is the content of secretReset.
type resetPlan struct {
	Master      []byte `json:"master"`
	SelfSigning []byte `json:"self_signing"`
	UserSigning []byte `json:"user_signing"`
	// Requests names those that asked for this reset, the latest last.
	Requests []string `json:"requests,omitempty"`
}

// resetting is a reset that has begun.
type resetting struct {
	*identity.Keys
	requests []string
}

// Reset publishes a new identity, or completes an interrupted reset, and makes new secret
// storage and a new backup; nothing, if that was done for the same request. An empty one is
// always another.
func (o *Identity) Reset(ctx context.Context, request string, auth core.UserAuth) error {
	give, err := o.acct.boot.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	r, err := o.acct.loadReset(ctx)
	if err != nil {
		return err
	}
	if r == nil {
		if done, err := o.acct.wasReset(ctx, request); done || err != nil {
			return err
		}
	}
	if r, err = o.beginReset(ctx, r, request); err != nil {
		return err
	}
	// The tracker is told before publication, so that it raises no alarm.
	if _, err := o.acct.Tracker.SetOwnIdentity(ctx, r.Master.PublicKey()); err != nil {
		return fmt.Errorf("trust the own identity: %w", err)
	}
	if err := o.uploadResetIdentity(ctx, r.Keys, auth); err != nil {
		return err
	}
	if err := o.finishReset(ctx, r); err != nil {
		return err
	}
	o.acct.password.forget()
	return nil
}

// uploadResetIdentity publishes the identity of a reset, unless an interrupted call did.
func (o *Identity) uploadResetIdentity(ctx context.Context, keys *identity.Keys, auth core.UserAuth) error {
	own, err := o.ReadOwn(ctx, true)
	switch {
	case err != nil:
		return err
	case own.Knowledge != trustcache.KnowledgeFresh:
		return errOwnUnknown
	case own.Current == keys.Master.PublicKey():
		return nil
	}
	return o.upload(ctx, keys, auth, func(context.Context) error { return nil })
}

// ResetBegun reports whether a reset was begun for a request, or done.
func (a *Account) ResetBegun(ctx context.Context, request string) (bool, error) {
	r, err := a.loadReset(ctx)
	if err != nil {
		return false, err
	}
	if r != nil && request != "" && slices.Contains(r.requests, request) {
		return true, nil
	}
	return a.wasReset(ctx, request)
}

// wasReset reports whether a reset was done for a request.
func (a *Account) wasReset(ctx context.Context, request string) (bool, error) {
	if request == "" {
		return false, nil
	}
	all, err := a.Env.Store.Intents(ctx, a.Row)
	if err != nil {
		return false, fmt.Errorf("look for a reset that was done: %w", err)
	}
	return slices.ContainsFunc(all, func(in store.Intent) bool { return in.Request == request && in.Identity != "" }), nil
}

// loadReset returns the unfinished reset; nil when there is none.
func (a *Account) loadReset(ctx context.Context) (*resetting, error) {
	stored, err := a.Env.Store.Secret(ctx, a.Row, secretReset)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load the reset under way: %w", err)
	}
	var plan resetPlan
	if err := json.Unmarshal(stored.Value.Reveal(), &plan); err != nil {
		return nil, fmt.Errorf("read the reset under way: %w", strictjson.ErrMalformed)
	}
	var c identity.Keys
	for _, part := range []struct {
		seed []byte
		slot **pk.Signing
	}{{plan.Master, &c.Master}, {plan.SelfSigning, &c.SelfSigning}, {plan.UserSigning, &c.UserSigning}} {
		if *part.slot, err = pk.NewSigningFromSeed(part.seed); err != nil {
			return nil, fmt.Errorf("read the reset under way: %w", err)
		}
	}
	return &resetting{&c, plan.Requests}, nil
}

// beginReset stores that a request asks for a reset: for the one under way, or else for a new
// one.
func (o *Identity) beginReset(ctx context.Context, r *resetting, request string) (*resetting, error) {
	switch {
	case r == nil:
		keys, err := identity.NewKeys()
		if err != nil {
			return nil, err
		}
		r = &resetting{Keys: keys}
	case request == "" || slices.Contains(r.requests, request):
		return r, nil
	}
	if request != "" {
		r.requests = append(r.requests[max(0, len(r.requests)+1-maxResetRequests):], request)
	}
	raw, err := json.Marshal(resetPlan{r.Master.Seed(), r.SelfSigning.Seed(), r.UserSigning.Seed(), r.requests})
	if err != nil {
		return nil, fmt.Errorf("encode the reset: %w", err)
	}
	row := store.Secret{Name: secretReset, Value: raw, CreatedAt: o.Env.Now()}
	if err := o.Save(ctx, &store.Changes{Secrets: []store.Secret{row}}); err != nil {
		return nil, fmt.Errorf("store the reset: %w", err)
	}
	return r, nil
}

// finishReset takes a published identity into use: it signs the device and makes a new
// secret storage and backup.
func (o *Identity) finishReset(ctx context.Context, r *resetting) error {
	keys := r.Keys
	own, err := o.ReadOwn(ctx, true)
	if err != nil {
		return err
	}
	if own.Current != keys.Master.PublicKey() {
		return errIdentityNotShown
	}
	current, err := o.acct.Keys(ctx)
	if err != nil {
		return err
	}
	if current == nil || current.Master.PublicKey() != keys.Master.PublicKey() {
		// The old storage key and backup key belong to the old identity.
		ch := &store.Changes{Secrets: keys.SecretsMadeHere(), DeleteSecrets: []string{identity.SecretStorageKey, identity.SecretBackup, identity.SecretBackupReceived}}
		ch.Audit = auditing.Of(o.Device, audit.KindReset, "master key "+keys.Master.PublicKey().String())
		if err := o.Save(ctx, ch); err != nil {
			return fmt.Errorf("store the new identity: %w", err)
		}
	}
	// If the homeserver does not show the signature, the account must still get its
	// recovery key; the status reports it.
	if err := o.use(ctx, own, keys); err != nil && !signatureFailed(err) {
		return err
	}
	if err := o.replaceStorage(ctx, keys); err != nil {
		return err
	}
	for _, request := range r.requests {
		in := store.Intent{Request: request, Identity: keys.Master.PublicKey(), MadeAt: o.Env.Now()}
		if err := o.Env.Store.PutIntent(ctx, o.acct.Row, in); err != nil {
			return fmt.Errorf("store that the reset was done: %w", err)
		}
	}
	if err := o.Save(ctx, &store.Changes{DeleteSecrets: []string{secretReset}}); err != nil {
		return fmt.Errorf("store the end of the reset: %w", err)
	}
	return nil
}

// replaceStorage makes new secret storage and a new backup, whatever was there.
func (o *Identity) replaceStorage(ctx context.Context, keys *identity.Keys) error {
	key, err := o.acct.ownStorageKey(ctx)
	if err != nil {
		return err
	}
	if key == nil {
		if key, err = o.newStorageKey(ctx); err != nil {
			return err
		}
	}
	private, err := o.host.ReplaceBackup(ctx, keys)
	if err != nil {
		return err
	}
	secrets := keys.ByName()
	secrets[identity.SecretBackup] = private
	for name, value := range secrets {
		if err := o.storeSecret(ctx, key, name, value, replaceAll); err != nil {
			return err
		}
	}
	// Last: the default key stays the old one until everything is in the new storage.
	if err := o.makeDefault(ctx, key); err != nil {
		return err
	}
	o.acct.setStorageStanding(StorageComplete)
	o.host.SetBackupStanding(keybackup.StandingOurs)
	return nil
}

// Expect tells the tracker which identity is ours, so that it raises no alarm when
// a reset publishes it.
func (a *Account) Expect(ctx context.Context) error {
	var keys *identity.Keys
	r, err := a.loadReset(ctx)
	switch {
	case err != nil:
		return err
	case r != nil:
		keys = r.Keys
	default:
		if keys, err = a.Keys(ctx); err != nil {
			return err
		}
	}
	if keys == nil {
		return nil
	}
	if _, err := a.Tracker.SetOwnIdentity(ctx, keys.Master.PublicKey()); err != nil {
		return fmt.Errorf("trust the own identity: %w", err)
	}
	return nil
}
