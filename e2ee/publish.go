package e2ee

import (
	"context"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// ClientHasKeys is called before a client's own device keys go to the homeserver. settle is
// nil when the proxy's keys are published: the upload must be refused. Otherwise the proxy
// publishes none until the caller calls settle with whether the homeserver accepted the
// client's keys; if so, the device becomes foreign.
func (e *Engine) ClientHasKeys(ctx context.Context, user id.UserID, device id.DeviceID, token secret.String) (settle func(ctx context.Context, accepted bool) error, err error) {
	d, err := e.Device(ctx, user, device, token)
	if err != nil {
		return nil, err
	}
	switch d.core.Mode {
	case core.ModeProxied:
	case core.ModeLost:
		return nil, core.ErrKeysLost // other users know the old keys
	case core.ModeForeign, core.ModeNone, core.ModeUnknown:
		return func(context.Context, bool) error { return nil }, nil
	}
	give, err := d.schedule.upkeep.Take(ctx, struct{}{})
	if err != nil {
		return nil, err
	}
	d.core.Mu.Lock()
	uploaded := d.core.Record.Row.KeysUploaded
	d.core.Mu.Unlock()
	if uploaded {
		give()
		return nil, nil
	}
	return func(ctx context.Context, accepted bool) error {
		defer give()
		if !accepted {
			return nil
		}
		return e.makeForeign(ctx, d, token)
	}, nil
}

// makeForeign replaces a device that never published keys by one whose requests pass
// through. Until now its client was not shown that rooms are encrypted, so its next sync
// must carry the full state.
func (e *Engine) makeForeign(ctx context.Context, d *Device, token secret.String) error {
	user, device := d.acct.User, d.core.ID
	if err := e.discard(ctx, user, device); err != nil {
		return err
	}
	row, err := e.env.Store.Account(ctx, user)
	if err != nil {
		return fmt.Errorf("load account: %w", err)
	}
	foreign := store.Device{DeviceID: device, State: store.DeviceForeign, Token: token, Meta: []byte(metaFullState)}
	if _, err := e.env.Store.CreateDevice(ctx, row, foreign); err != nil {
		return fmt.Errorf("store foreign device: %w", err)
	}
	return nil
}

// metaFullState is the Meta of a foreign device whose client needs the full state once.
const metaFullState = `{"full_state":true}`

// NeedsFullState reports whether the next sync of a foreign device's client must carry the
// full state.
func (d *Device) NeedsFullState() bool {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	return d.core.Mode == core.ModeForeign && string(d.core.Record.Row.Meta) == metaFullState
}

// GaveFullState records that it did.
func (d *Device) GaveFullState(ctx context.Context) error {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	s := d.core.Begin()
	s.Row().Meta = nil
	return s.Commit(ctx, "what the client was given")
}

// Refreshed records a new access token of a device. Using it would revoke the old one, so
// it is used only once the client has used it, or the old one is refused (requirement
// 22.3).
func (e *Engine) Refreshed(ctx context.Context, user id.UserID, device id.DeviceID, token secret.String) error {
	d, err := e.fromStore(ctx, deviceKey{user, device}, true)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil || d.core.Mode != core.ModeProxied {
		return err
	}
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	d.core.Record.NextToken = token
	return nil
}

// LoggedIn records a login through the proxy. A copy of the password is kept in memory for
// a minute at most, for the first bootstrap.
func (e *Engine) LoggedIn(ctx context.Context, user id.UserID, device id.DeviceID, token secret.String, password secret.Bytes) error {
	if device == "" {
		return nil
	}
	// A login with the ID of a device that was logged out without the proxy makes a new
	// device.
	d, err := e.Device(ctx, user, device, token)
	if err != nil {
		return err
	}
	if d.core.Mode != core.ModeProxied || len(password) == 0 {
		return nil
	}
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	d.ownIdentity.KeepPasswordLocked(password)
	return nil
}
