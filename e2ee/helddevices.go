package e2ee

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// A device is acted for without its client when its owner is known in another way: by the
// socket that only the machine's owner may open, or by a session of the console. The access
// token that its client used last stands for it.

// HeldDevice is a device that has used the proxy.
type HeldDevice struct {
	DeviceID id.DeviceID
	Mode     Mode
	// HasToken reports whether the proxy has an access token of it. Without one nothing can be
	// done for the device before it logs in again. Whether the token is still valid only the
	// homeserver can tell.
	HasToken bool
	// LastUsed is when it was last used through this process; zero if it was not since the
	// process started.
	LastUsed time.Time
}

// HeldDevices returns the devices of a user that have used the proxy, in the order in which
// a person looks for them: first those whose keys are here and that can be acted for, of
// these the last used, then the newest. There are none for a user that the proxy does not
// know. No account is claimed.
func (e *Engine) HeldDevices(ctx context.Context, user id.UserID) ([]HeldDevice, error) {
	stored, err := e.storedDevices(ctx, user)
	if err != nil {
		return nil, err
	}
	out := make([]HeldDevice, len(stored))
	for i := range stored {
		dev := &stored[i]
		out[i] = HeldDevice{DeviceID: dev.DeviceID, Mode: modeOf(dev.State), HasToken: !dev.Token.IsZero()}
		if d := e.loaded(deviceKey{user, dev.DeviceID}); d != nil && d.core.RowID == dev.ID {
			out[i].HasToken = len(d.core.Tokens()) > 0
			out[i].LastUsed = e.lastUsed(d)
		}
	}
	slices.Reverse(out) // the newest first
	slices.SortStableFunc(out, func(a, b HeldDevice) int {
		if c := cmp.Compare(b.usefulness(), a.usefulness()); c != 0 {
			return c
		}
		return b.LastUsed.Compare(a.LastUsed)
	})
	return out, nil
}

// modeOf returns what the proxy does for a device in a state.
func modeOf(state store.DeviceState) core.Mode {
	switch state {
	case store.DeviceOurs:
		return core.ModeProxied
	case store.DeviceForeign:
		return core.ModeForeign
	case store.DeviceLost:
		return core.ModeLost
	case store.DeviceUnknown:
	}
	return core.ModeUnknown
}

// usefulness says how much can be done for a device.
func (h HeldDevice) usefulness() int {
	switch {
	case !h.HasToken:
		return 0
	case h.Mode == ModeProxied:
		return 3
	case h.Mode == ModeForeign:
		return 2
	}
	return 1
}

// lastUsed returns when a device in memory was used by somebody, and not only visited.
func (e *Engine) lastUsed(d *Device) time.Time {
	e.mu.Lock()
	used := d.hasClient
	e.mu.Unlock()
	if !used {
		return time.Time{}
	}
	return d.schedule.UsedAt()
}

// storedDevices returns what is stored of a user's devices; nothing for an unknown user.
func (e *Engine) storedDevices(ctx context.Context, user id.UserID) ([]store.Device, error) {
	row, err := e.env.Store.LookupAccount(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up the account: %w", err)
	}
	stored, err := e.env.Store.Devices(ctx, row)
	if err != nil {
		return nil, fmt.Errorf("load devices: %w", err)
	}
	return stored, nil
}

// HeldToken returns the access token of a device, for a request that is made in its name. It
// may be out of date. The error is ErrUnknownDevice, or ErrSessionEnded if there is none.
func (e *Engine) HeldToken(ctx context.Context, user id.UserID, device id.DeviceID) (secret.String, error) {
	if d := e.loaded(deviceKey{user, device}); d != nil {
		if token := d.core.CurrentToken(); !token.IsZero() {
			return token, nil
		}
	}
	stored, err := e.storedDevices(ctx, user)
	if err != nil {
		return secret.String{}, err
	}
	at := slices.IndexFunc(stored, func(dev store.Device) bool { return dev.DeviceID == device })
	switch {
	case at < 0:
		return secret.String{}, core.ErrUnknownDevice
	case stored[at].Token.IsZero():
		return secret.String{}, core.ErrSessionEnded
	}
	return stored[at].Token, nil
}

// Held returns a device to act for without its client. Whoever calls it knows that its owner
// wants that. The error is ErrUnknownDevice if the device has never used the proxy, and
// ErrSessionEnded if the homeserver says that its session has ended; if that is for good,
// the device's keys are gone afterwards, as when its client had come.
func (e *Engine) Held(ctx context.Context, user id.UserID, device id.DeviceID) (*Device, error) {
	key := deviceKey{user, device}
	missing := core.ErrUnknownDevice
	for range maxHeldTokens {
		d, err := e.fromStore(ctx, key, true)
		if errors.Is(err, store.ErrNotFound) {
			return nil, missing
		}
		if err != nil {
			return nil, err
		}
		token := d.core.CurrentToken()
		if token.IsZero() {
			return nil, core.ErrSessionEnded
		}
		switch e.askEnd(ctx, token) {
		case endAlive, endUnknown:
			d.schedule.InUse()
			if d.core.Mode == core.ModeProxied {
				e.awaken(d)
			}
			return d, nil
		case endSoft, endGone:
		}
		if err := e.UnknownToken(ctx, user, device, token, false); err != nil {
			return nil, err
		}
		if d.core.CurrentToken() == token {
			break // a soft logout: it stays until the client comes
		}
		missing = core.ErrSessionEnded
	}
	return nil, core.ErrSessionEnded
}

// maxHeldTokens is how many access tokens a device can have at a time: that in use and the
// one that replaces it.
const maxHeldTokens = 2
