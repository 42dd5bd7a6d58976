package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Names of an account's secrets: those of the spec (requirements 12.11, 16.2), and ours.
const (
	secretMaster      = "m.cross_signing.master"
	secretSelfSigning = "m.cross_signing.self_signing"
	secretUserSigning = "m.cross_signing.user_signing"
	secretBackup      = "m.megolm_backup.v1"
	// secretStorageKey is the key of secret storage that we made: the recovery key.
	secretStorageKey = "recovery_key"
)

// crossSigning are the private keys of a user's identity.
type crossSigning struct {
	master, selfSigning, userSigning *pk.Signing
}

func newCrossSigning() (*crossSigning, error) {
	var c crossSigning
	for _, slot := range []**pk.Signing{&c.master, &c.selfSigning, &c.userSigning} {
		key, err := pk.NewSigning()
		if err != nil {
			return nil, fmt.Errorf("make cross-signing key: %w", err)
		}
		*slot = key
	}
	return &c, nil
}

// slots are the names of the keys and where each is kept.
func (c *crossSigning) slots() map[string]**pk.Signing {
	return map[string]**pk.Signing{
		secretMaster: &c.master, secretSelfSigning: &c.selfSigning, secretUserSigning: &c.userSigning,
	}
}

// loadCrossSigning reads the private keys that are stored; nil unless all are there.
func (a *account) loadCrossSigning(ctx context.Context) (*crossSigning, error) {
	c, err := a.loadParts(ctx)
	if err != nil || c.master == nil || c.selfSigning == nil || c.userSigning == nil {
		return nil, err
	}
	return c, nil
}

// loadParts reads those of the private keys that are stored.
func (a *account) loadParts(ctx context.Context) (*crossSigning, error) {
	var c crossSigning
	for name, slot := range c.slots() {
		stored, err := a.eng.store.Secret(ctx, a.row, name)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("load cross-signing keys: %w", err)
		}
		if *slot, err = pk.NewSigningFromSeed(stored.Value.Reveal()); err != nil {
			return nil, fmt.Errorf("load cross-signing keys: %w", err)
		}
	}
	return &c, nil
}

// published gives the public key that a private key must belong to.
func published(own *trustcache.User, name string) id.Ed25519 {
	switch name {
	case secretMaster:
		return own.Current
	case secretSelfSigning:
		return own.SelfSigning
	case secretUserSigning:
		return own.UserSigning
	default:
		return ""
	}
}

// misfits names the keys that do not belong to the published identity. With a master key
// that is not the published one, none does: who signed what under the new one is not known.
func (c *crossSigning) misfits(own *trustcache.User) []string {
	var out []string
	foreign := c.master != nil && c.master.PublicKey() != own.Current
	for name, slot := range c.slots() {
		if *slot == nil {
			continue
		}
		public := published(own, name)
		if foreign || (public != "" && (*slot).PublicKey() != public) {
			out = append(out, name)
		}
	}
	return out
}

// secrets gives the keys as rows to store.
func (c *crossSigning) secrets() []store.Secret {
	return []store.Secret{
		{Name: secretMaster, Value: secret.Bytes(c.master.Seed())},
		{Name: secretSelfSigning, Value: secret.Bytes(c.selfSigning.Seed())},
		{Name: secretUserSigning, Value: secret.Bytes(c.userSigning.Seed())},
	}
}

// byName gives the seeds as they go into secret storage.
func (c *crossSigning) byName() map[string][]byte {
	return map[string][]byte{
		secretMaster: c.master.Seed(), secretSelfSigning: c.selfSigning.Seed(), secretUserSigning: c.userSigning.Seed(),
	}
}

// publicKey is the object of one cross-signing key (requirement 12.2).
func publicKey(user id.UserID, usage string, key *pk.Signing) (json.RawMessage, error) {
	raw, err := json.Marshal(map[string]any{
		"user_id": user, "usage": []string{usage},
		"keys": map[string]string{"ed25519:" + key.PublicKey().String(): key.PublicKey().String()},
	})
	if err != nil {
		return nil, fmt.Errorf("encode cross-signing key: %w", err)
	}
	return raw, nil
}

// upload is the body of /keys/device_signing/upload (requirement 12.3).
func (c *crossSigning) upload(user id.UserID, signMaster func(json.RawMessage) (json.RawMessage, error)) (map[string]any, error) {
	master, err := publicKey(user, "master", c.master)
	if err != nil {
		return nil, err
	}
	if master, err = signMaster(master); err != nil {
		return nil, err
	}
	body := map[string]any{"master_key": master}
	for name, sub := range map[string]*pk.Signing{"self_signing": c.selfSigning, "user_signing": c.userSigning} {
		key, err := publicKey(user, name, sub)
		if err != nil {
			return nil, err
		}
		if body[name+"_key"], err = wire.SignWith(key, user, c.master); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// publish uploads the public keys, answering user-interactive auth with a password if
// the homeserver asks and one is given (requirement 12.6). Before it answers it calls
// asked, whose error ends it: to be asked may mean that an identity would be replaced.
func (o *ownIdentity) publish(ctx context.Context, c *crossSigning, auth UserAuth, asked func(context.Context) error) error {
	body, err := c.upload(o.acct.user, o.host.signAsDevice)
	if err != nil {
		return err
	}
	if auth.Stage != nil {
		body["auth"] = auth.Stage
	}
	send := func() error {
		return o.call(ctx, wire.Request{
			Op: "publish cross-signing keys", Method: http.MethodPost,
			Path: mautrix.ClientURLPath{"v3", "keys", "device_signing", "upload"}, Body: body,
		})
	}
	err = send()
	challenge := challengeOf(err)
	if challenge == nil {
		return err
	}
	if err := asked(ctx); err != nil {
		return err
	}
	if auth.Password.IsZero() || !challenge.TakesPassword() {
		return challenge.Needed()
	}
	body["auth"] = map[string]any{
		"type": "m.login.password", "session": challenge.Session, "password": auth.Password.Reveal(),
		"identifier": map[string]string{"type": "m.id.user", "user": o.acct.user.String()},
		"user":       o.acct.user.String(),
	}
	err = send()
	if again := challengeOf(err); again != nil {
		if slices.Contains(again.Completed, "m.login.password") {
			return again.Needed() // the password was right and is not enough
		}
		return ErrWrongPassword
	}
	if wire.Status(err) == http.StatusForbidden { // Dendrite's answer to a wrong password
		return fmt.Errorf("%w: %w", ErrWrongPassword, err)
	}
	return err
}

// challengeOf gives the user-interactive authentication that an error asks for; nil when
// it asks for none.
func challengeOf(err error) *wire.Challenge {
	var up *wire.UpstreamError
	if errors.As(err, &up) && up.Status == http.StatusUnauthorized {
		return up.UIA
	}
	return nil
}

// signDevice adds the identity's signature to this device's keys as the homeserver
// shows them, and our device's to the master key (requirements 12.5, 12.8).
func (o *ownIdentity) signDevice(ctx context.Context, c *crossSigning, keys json.RawMessage) error {
	obj, err := strictjson.Parse(keys)
	if err != nil {
		return err
	}
	signed, err := wire.SignWith(obj.Without("unsigned").Encode(), o.acct.user, c.selfSigning)
	if err != nil {
		return err
	}
	var resp struct {
		Failures map[id.UserID]map[string]json.RawMessage `json:"failures"`
	}
	err = o.call(ctx, wire.Request{
		Op: "upload the device's signature", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "keys", "signatures", "upload"},
		Body: map[id.UserID]map[string]json.RawMessage{o.acct.user: {o.id.String(): signed}}, Result: &resp,
	})
	if err != nil {
		return err
	}
	if len(resp.Failures[o.acct.user]) > 0 {
		return ErrSignatureRefused
	}
	return nil
}
