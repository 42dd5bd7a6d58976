package identity

import (
	"encoding/json"
	"fmt"

	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Keys are the private keys of a user's identity.
type Keys struct {
	Master, SelfSigning, UserSigning *pk.Signing
}

// NewKeys makes the keys of a new identity.
func NewKeys() (*Keys, error) {
	var c Keys
	for _, slot := range []**pk.Signing{&c.Master, &c.SelfSigning, &c.UserSigning} {
		key, err := pk.NewSigning()
		if err != nil {
			return nil, fmt.Errorf("make cross-signing key: %w", err)
		}
		*slot = key
	}
	return &c, nil
}

// Slots returns, by name, where each key is kept.
func (c *Keys) Slots() map[string]**pk.Signing {
	return map[string]**pk.Signing{
		SecretMaster: &c.Master, SecretSelfSigning: &c.SelfSigning, SecretUserSigning: &c.UserSigning,
	}
}

// PublishedKey returns the published public key that a private key must belong to.
func PublishedKey(own *trustcache.User, name string) id.Ed25519 {
	switch name {
	case SecretMaster:
		return own.Current
	case SecretSelfSigning:
		return own.SelfSigning
	case SecretUserSigning:
		return own.UserSigning
	default:
		return ""
	}
}

// Misfits returns the names of the keys that do not belong to the published identity. If
// the published master key is another, all of them are returned.
func (c *Keys) Misfits(own *trustcache.User) []string {
	var out []string
	foreign := c.Master != nil && c.Master.PublicKey() != own.Current
	for name, slot := range c.Slots() {
		if *slot == nil {
			continue
		}
		public := PublishedKey(own, name)
		if foreign || (public != "" && (*slot).PublicKey() != public) {
			out = append(out, name)
		}
	}
	return out
}

// Secrets returns the keys as rows of the store.
func (c *Keys) Secrets() []store.Secret {
	return []store.Secret{
		{Name: SecretMaster, Value: secret.Bytes(c.Master.Seed())},
		{Name: SecretSelfSigning, Value: secret.Bytes(c.SelfSigning.Seed())},
		{Name: SecretUserSigning, Value: secret.Bytes(c.UserSigning.Seed())},
	}
}

// SecretsMadeHere returns the secrets of keys that the proxy has just made.
func (c *Keys) SecretsMadeHere() []store.Secret {
	return append(c.Secrets(), store.Secret{Name: SecretMadeHere, Value: secret.Bytes(c.Master.PublicKey())})
}

// ByName returns the seeds under their names in secret storage.
func (c *Keys) ByName() map[string][]byte {
	return map[string][]byte{
		SecretMaster: c.Master.Seed(), SecretSelfSigning: c.SelfSigning.Seed(), SecretUserSigning: c.UserSigning.Seed(),
	}
}

// publicKey returns the object of one cross-signing key (requirement 12.2).
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

// Upload returns the body of /keys/device_signing/upload (requirement 12.3).
func (c *Keys) Upload(user id.UserID, signMaster func(json.RawMessage) (json.RawMessage, error)) (map[string]any, error) {
	master, err := publicKey(user, "master", c.Master)
	if err != nil {
		return nil, err
	}
	if master, err = signMaster(master); err != nil {
		return nil, err
	}
	body := map[string]any{"master_key": master}
	for name, sub := range map[string]*pk.Signing{"self_signing": c.SelfSigning, "user_signing": c.UserSigning} {
		key, err := publicKey(user, name, sub)
		if err != nil {
			return nil, err
		}
		if body[name+"_key"], err = wire.SignWith(key, user, c.Master); err != nil {
			return nil, err
		}
	}
	return body, nil
}
