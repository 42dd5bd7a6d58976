package ownidentity

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/goolm/pk"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/auditing"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/identity"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/backoff"
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
	return o.uploadSignature(ctx, o.acct.User, o.ID.String(), signed)
}

// uploadSignature uploads an object of a user with a signature of the identity: device keys by
// the device's ID, or a master key by itself.
func (o *Identity) uploadSignature(ctx context.Context, user id.UserID, name string, signed json.RawMessage) error {
	var resp struct {
		Failures map[id.UserID]map[string]json.RawMessage `json:"failures"`
	}
	err := o.Call(ctx, wire.Request{
		Op: "upload a signature", Method: http.MethodPost,
		Path: mautrix.ClientURLPath{"v3", "keys", "signatures", "upload"},
		Body: map[id.UserID]map[string]json.RawMessage{user: {name: signed}}, Result: &resp,
	})
	if err != nil {
		return err
	}
	if len(resp.Failures[user]) > 0 {
		return core.ErrSignatureRefused
	}
	return nil
}

// signingKeys returns the private keys if all of them belong to the published identity, which
// must be verified.
func (o *Identity) signingKeys(ctx context.Context, own *trustcache.User) (*identity.Keys, error) {
	keys, err := o.acct.Keys(ctx)
	switch {
	case err != nil:
		return nil, err
	case keys == nil, len(keys.Misfits(own)) > 0, own.State() != trustcache.PinVerified:
		return nil, core.ErrDeviceNotSigned
	}
	return keys, nil
}

// Signs reports whether others and own devices can be signed.
func (o *Identity) Signs(ctx context.Context, own *trustcache.User) (bool, error) {
	_, err := o.signingKeys(ctx, own)
	if errors.Is(err, core.ErrDeviceNotSigned) {
		return false, nil
	}
	return err == nil, err
}

// SignUser signs the identity of another user, if it is the one with this master key, and
// reads it back (requirements 13.18, 12.8).
func (o *Identity) SignUser(ctx context.Context, user id.UserID, master id.Ed25519) error {
	own, err := o.ReadOwn(ctx, false)
	if err != nil {
		return err
	}
	keys, err := o.signingKeys(ctx, own)
	if err != nil {
		return err
	}
	look := func() (*trustcache.User, error) {
		users, err := o.acct.Tracker.Query(ctx, o.Query(), []id.UserID{user})
		if err != nil {
			return nil, fmt.Errorf("read the keys of a user: %w", err)
		}
		return users[user], nil
	}
	them, err := look()
	switch {
	case err != nil:
		return err
	case them.Knowledge != trustcache.KnowledgeFresh:
		return core.ErrCannotEncrypt
	case them.Current == "" || them.KeyCollision():
		return core.ErrUnverifiable
	case them.Current != master:
		return core.ErrMasterKeyNotCurrent
	case them.State() == trustcache.PinVerified:
		return nil
	}
	obj, err := strictjson.Parse(them.MasterRaw)
	if err != nil {
		return err
	}
	signed, err := wire.SignWith(obj.Without("unsigned").Without("signatures").Encode(), o.acct.User, keys.UserSigning)
	if err != nil {
		return err
	}
	// From now on what the homeserver answers to other accounts does not show all (see Alone).
	done := auditing.Of(o.Device, audit.KindVerified, "the identity of "+user.String()+", master key "+master.String())
	if err := o.Save(ctx, &store.Changes{DeleteSecrets: []string{identity.SecretMadeHere}, Audit: done}); err != nil {
		return fmt.Errorf("store that somebody is signed: %w", err)
	}
	if err := o.uploadSignature(ctx, user, master.String(), signed); err != nil {
		return err
	}
	return o.reread(ctx, func() (bool, error) {
		them, err := look()
		return err == nil && them.Current == master && them.State() == trustcache.PinVerified, err
	})
}

// SignDevice signs another device of the user, if it has this key, and reads it back.
func (o *Identity) SignDevice(ctx context.Context, device id.DeviceID, key id.Ed25519) error {
	own, err := o.ReadOwn(ctx, true)
	if err != nil {
		return err
	}
	dev := own.Device(device)
	switch {
	case dev == nil || !dev.Usable():
		return core.ErrUnknownDevice
	case dev.Ed25519 != key:
		return core.ErrKeysReplaced
	case dev.Signed:
		return nil
	}
	keys, err := o.signingKeys(ctx, own)
	if err != nil {
		return err
	}
	obj, err := strictjson.Parse(dev.Raw)
	if err != nil {
		return err
	}
	signed, err := wire.SignWith(obj.Without("unsigned").Encode(), o.acct.User, keys.SelfSigning)
	if err != nil {
		return err
	}
	if err := auditing.Append(ctx, o.Device, audit.KindVerified, "the own device "+device.String()+", key "+key.String()); err != nil {
		return fmt.Errorf("record a verification: %w", err)
	}
	if err := o.uploadSignature(ctx, o.acct.User, device.String(), signed); err != nil {
		return err
	}
	return o.reread(ctx, func() (bool, error) {
		own, err := o.ReadOwn(ctx, true)
		if err != nil {
			return false, err
		}
		dev := own.Device(device)
		return dev != nil && dev.Signed && dev.Ed25519 == key, nil
	})
}

// reread looks for a signature that was just accepted.
func (o *Identity) reread(ctx context.Context, shown func() (bool, error)) error {
	for again := 1; ; again++ {
		switch ok, err := shown(); {
		case ok || err != nil:
			return err
		case again > rereads:
			return core.ErrSignatureNotShown
		}
		if err := backoff.Wait(ctx, core.RereadPauses().After(again)); err != nil {
			return err
		}
	}
}

// Adopt trusts the own identity, which was compared at another device. It must be the one with
// this master key.
func (o *Identity) Adopt(ctx context.Context, master id.Ed25519) error {
	own, err := o.ReadOwn(ctx, true)
	if err != nil {
		return err
	}
	if own.Current != master || own.Knowledge != trustcache.KnowledgeFresh {
		return core.ErrMasterKeyNotCurrent
	}
	if err := auditing.Append(ctx, o.Device, audit.KindVerified, "the own identity, master key "+master.String()); err != nil {
		return fmt.Errorf("record a verification: %w", err)
	}
	if verified, err := o.acct.Tracker.SetOwnIdentity(ctx, master); err != nil || !verified {
		return cmp.Or(err, core.ErrMasterKeyNotCurrent)
	}
	o.Recheck() // what is missing is asked of the other devices
	return nil
}
