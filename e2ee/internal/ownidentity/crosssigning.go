package ownidentity

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

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Keys returns the stored private keys; nil unless all are there.
func (a *Account) Keys(ctx context.Context) (*identity.Keys, error) {
	c, err := a.keysInPart(ctx)
	if err != nil || c.Master == nil || c.SelfSigning == nil || c.UserSigning == nil {
		return nil, err
	}
	return c, nil
}

// keysInPart returns those of the private keys that are stored.
func (a *Account) keysInPart(ctx context.Context) (*identity.Keys, error) {
	var c identity.Keys
	for name, slot := range c.Slots() {
		stored, err := a.Env.Store.Secret(ctx, a.Row, name)
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

// MissingKeys returns the names of those published keys whose private keys are not here.
func (o *Identity) MissingKeys(ctx context.Context, own *trustcache.User) ([]string, error) {
	parts, err := o.acct.keysInPart(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for name, slot := range parts.Slots() {
		if *slot == nil && identity.PublishedKey(own, name) != "" {
			out = append(out, name)
		}
	}
	return out, nil
}

// upload uploads the public keys. If the homeserver asks for user-interactive auth,
// it answers with the password, if there is one (requirement 12.6). Before that it calls
// asked, and ends with its error: being asked may mean that an identity would be replaced.
func (o *Identity) upload(ctx context.Context, c *identity.Keys, auth core.UserAuth, asked func(context.Context) error) error {
	body, err := c.Upload(o.acct.User, o.host.SignAsDevice)
	if err != nil {
		return err
	}
	if auth.Stage != nil {
		body["auth"] = auth.Stage
	}
	send := func() error {
		return o.Call(ctx, wire.Request{
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
	if auth.Password.IsZero() || !challenge.AcceptsPassword() {
		return challenge.Needed()
	}
	body["auth"] = map[string]any{
		"type": "m.login.password", "session": challenge.Session, "password": auth.Password.Reveal(),
		"identifier": map[string]string{"type": "m.id.user", "user": o.acct.User.String()},
		"user":       o.acct.User.String(),
	}
	err = send()
	if again := challengeOf(err); again != nil {
		if slices.Contains(again.Completed, "m.login.password") {
			return again.Needed() // the password was right, but is not enough
		}
		return core.ErrWrongPassword
	}
	if wire.Status(err) == http.StatusForbidden { // Dendrite's answer to a wrong password
		return fmt.Errorf("%w: %w", core.ErrWrongPassword, err)
	}
	return err
}

// challengeOf returns the user-interactive authentication that an error asks for; nil when
// it asks for none.
func challengeOf(err error) *wire.Challenge {
	var up *wire.UpstreamError
	if errors.As(err, &up) && up.Status == http.StatusUnauthorized {
		return up.UIA
	}
	return nil
}

// signDevice adds the identity's signature to this device's keys as the homeserver shows
// them, and the device's signature to the master key (requirements 12.5, 12.8).
func (o *Identity) signDevice(ctx context.Context, c *identity.Keys, keys json.RawMessage) error {
	obj, err := strictjson.Parse(keys)
	if err != nil {
		return err
	}
	signed, err := wire.SignWith(obj.Without("unsigned").Encode(), o.acct.User, c.SelfSigning)
	if err != nil {
		return err
	}
	var resp struct {
		Failures map[id.UserID]map[string]json.RawMessage `json:"failures"`
	}
	err = o.Call(ctx, wire.Request{
		Op: "upload the device's signature", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "keys", "signatures", "upload"},
		Body: map[id.UserID]map[string]json.RawMessage{o.acct.User: {o.ID.String(): signed}}, Result: &resp,
	})
	if err != nil {
		return err
	}
	if len(resp.Failures[o.acct.User]) > 0 {
		return core.ErrSignatureRefused
	}
	return nil
}
