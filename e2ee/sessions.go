package e2ee

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// A device's keys are deleted for one reason only: /account/whoami, with the device's own
// token, answers that the session has ended for good. Any other answer, also the 200 of a
// logout, only causes that question: it may be about another token or untrue, and deleted
// keys do not come back. The work continues when the client's request ends.

const (
	// askEndTimeout is the timeout of that question.
	askEndTimeout = 10 * time.Second
	// askEndAtOnce bounds how many devices of a user are checked at the same time.
	askEndAtOnce = 8
)

// sessionEnd is the state of a device's session by the homeserver. The zero value deletes
// nothing.
type sessionEnd int

const (
	// endUnknown means no answer, or one that does not tell.
	endUnknown sessionEnd = iota
	// endAlive means that the token works.
	endAlive
	// endSoft means a soft logout: the device will log in again (requirement 22.1).
	endSoft
	// endGone means that the session has ended for good.
	endGone
)

// askEnd asks the homeserver whether a token's session has ended.
func (e *Engine) askEnd(ctx context.Context, token secret.String) sessionEnd {
	ctx, cancel := context.WithTimeout(ctx, askEndTimeout)
	defer cancel()
	err := e.env.Homeserver.Call(ctx, token, wire.Request{
		Op: "ask whether a session has ended", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "account", "whoami"},
	})
	var up *wire.UpstreamError
	switch {
	case err == nil:
		return endAlive
	case !errors.As(err, &up) || up.Status != http.StatusUnauthorized || up.ErrCode != "M_UNKNOWN_TOKEN":
		return endUnknown
	case up.SoftLogout:
		return endSoft
	}
	return endGone
}

// hasEnded asks about all tokens of a device: its session has ended when all of theirs
// have.
func (e *Engine) hasEnded(ctx context.Context, tokens []secret.String) sessionEnd {
	end := endUnknown
	for i, token := range tokens {
		if said := e.askEnd(ctx, token); i == 0 || said < end {
			end = said
		}
	}
	return end
}

// Forget deletes devices that were logged out or deleted, with their keys (requirement
// 22.1), if the homeserver confirms that their sessions have ended.
func (e *Engine) Forget(ctx context.Context, user id.UserID, devices ...id.DeviceID) error {
	ctx, cancel := core.Detach(ctx, core.DetachedFor)
	defer cancel()
	_, err := e.forgetEnded(ctx, user, secret.String{}, func(dev id.DeviceID) bool { return slices.Contains(devices, dev) })
	return err
}

// ForgetAll is Forget for all devices of a user except those in keep.
func (e *Engine) ForgetAll(ctx context.Context, user id.UserID, keep ...id.DeviceID) error {
	ctx, cancel := core.Detach(ctx, core.DetachedFor)
	defer cancel()
	_, err := e.forgetEnded(ctx, user, secret.String{}, func(dev id.DeviceID) bool { return !slices.Contains(keep, dev) })
	return err
}

// ForgetAccount deletes everything of a user whose account was deactivated, unless one of
// its sessions goes on. The next owner of the user ID must not find the keys of the last
// (attack 51).
func (e *Engine) ForgetAccount(ctx context.Context, user id.UserID) error {
	ctx, cancel := core.Detach(ctx, core.DetachedFor)
	defer cancel()
	kept, err := e.forgetEnded(ctx, user, secret.String{}, func(id.DeviceID) bool { return true })
	if err != nil || kept > 0 {
		return err
	}
	a, err := e.existing(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	e.owned.Drop(user, a)
	a.Tracker.Close()
	if err := e.env.Store.DeleteAccount(ctx, a.Row); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("forget account: %w", err)
	}
	return nil
}

// forgetEnded deletes those of the chosen devices whose sessions have ended, and returns
// how many it kept. dead is a token whose session is known to have ended.
func (e *Engine) forgetEnded(ctx context.Context, user id.UserID, dead secret.String, which func(id.DeviceID) bool) (kept int, err error) {
	a, err := e.existing(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	row := a.Row
	stored, err := e.env.Store.Devices(ctx, row)
	if err != nil {
		return 0, fmt.Errorf("load devices: %w", err)
	}
	stored = slices.DeleteFunc(stored, func(dev store.Device) bool { return !which(dev.DeviceID) })
	ends := make([]sessionEnd, len(stored))
	var asking errgroup.Group
	asking.SetLimit(askEndAtOnce)
	for i := range stored {
		asking.Go(parallel.Safe(func() error {
			ends[i] = e.endOf(ctx, user, &stored[i], dead)
			return nil
		}))
	}
	if err := asking.Wait(); err != nil {
		return 0, fmt.Errorf("ask which sessions have ended: %w", err)
	}
	for i := range stored {
		if ends[i] != endGone {
			kept++
			e.env.Log.Warn().Msg("A session was to have ended, and the homeserver does not confirm it; the keys of its device are kept")
			continue
		}
		if err := e.forget(ctx, row, stored[i]); err != nil {
			return kept, err
		}
	}
	return kept, nil
}

// endOf asks whether the session of a stored device has ended. A device without keys here
// has nothing to lose: it is checked when it is used again.
func (e *Engine) endOf(ctx context.Context, user id.UserID, dev *store.Device, dead secret.String) sessionEnd {
	if dev.State != store.DeviceOurs {
		return endGone
	}
	tokens := core.Distinct(dev.Token)
	if d := e.loaded(deviceKey{user, dev.DeviceID}); d != nil && d.core.RowID == dev.ID {
		tokens = d.core.Tokens()
	}
	left := slices.DeleteFunc(slices.Clone(tokens), func(t secret.String) bool { return t == dead })
	if len(left) == 0 && len(tokens) > 0 {
		return endGone
	}
	return e.hasEnded(ctx, left)
}

// forgetDead deletes a device one of whose tokens is known to have ended for good.
func (e *Engine) forgetDead(ctx context.Context, user id.UserID, device id.DeviceID, dead secret.String) error {
	ctx, cancel := core.Detach(ctx, core.DetachedFor)
	defer cancel()
	_, err := e.forgetEnded(ctx, user, dead, func(dev id.DeviceID) bool { return dev == device })
	return err
}

// discard deletes a device without asking. It is for devices that never published keys.
func (e *Engine) discard(ctx context.Context, user id.UserID, device id.DeviceID) error {
	ctx, cancel := core.Detach(ctx, core.DetachedFor)
	defer cancel()
	a, err := e.existing(ctx, user)
	if err != nil {
		return err
	}
	dev, err := e.env.Store.Device(ctx, a.Row, device)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load device: %w", err)
	}
	return e.forget(ctx, a.Row, dev)
}

// UnknownToken handles a 401 M_UNKNOWN_TOKEN, soft or not, that the homeserver answered to
// a client. It may have another cause, so /account/whoami is asked, see askEnd.
// After a hard logout the keys are deleted, after a soft logout they are kept (requirement
// 22.1). A replaced token ends without its device (requirement 22.3).
func (e *Engine) UnknownToken(ctx context.Context, user id.UserID, device id.DeviceID, token secret.String, soft bool) error {
	if user == "" || device == "" {
		return nil
	}
	d := e.loaded(deviceKey{user, device})
	var current secret.String
	if d != nil {
		current = d.core.CurrentToken()
	} else {
		var err error
		if current, err = e.storedToken(ctx, user, device); err != nil {
			return err
		}
	}
	if current != token || current.IsZero() {
		return nil
	}
	ctx, cancel := core.Detach(ctx, core.DetachedFor)
	defer cancel()
	switch e.askEnd(ctx, token) {
	case endAlive, endUnknown:
		return nil
	case endSoft:
		soft = true
	case endGone:
	}
	if d != nil && !d.core.DropToken(token) || soft {
		return nil
	}
	return e.forgetDead(ctx, user, device, token)
}

// storedToken returns the token of a device that is not loaded; empty when there is none.
func (e *Engine) storedToken(ctx context.Context, user id.UserID, device id.DeviceID) (secret.String, error) {
	a, err := e.existing(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return secret.String{}, nil
	}
	if err != nil {
		return secret.String{}, err
	}
	dev, err := e.env.Store.Device(ctx, a.Row, device)
	if errors.Is(err, store.ErrNotFound) {
		return secret.String{}, nil
	}
	if err != nil {
		return secret.String{}, fmt.Errorf("load device: %w", err)
	}
	return dev.Token, nil
}

// tokenGone reports whether the device's session has ended, as an error of one of its
// requests suggests and /account/whoami confirms. The session of a locked user stays
// (requirement 22.2).
func (d *Device) tokenGone(used secret.String, err error) bool {
	var up *wire.UpstreamError
	if !errors.As(err, &up) || up.Status != http.StatusUnauthorized {
		return false
	}
	end := endSoft
	if up.ErrCode == "M_UNKNOWN_TOKEN" {
		if end = d.eng.askEnd(d.core.Env.Context, used); end == endAlive || end == endUnknown {
			return false
		}
	}
	if !d.core.DropToken(used) {
		return false
	}
	if end == endGone && !up.SoftLogout {
		if err := d.eng.forgetDead(d.core.Env.Context, d.acct.User, d.core.ID, used); err != nil {
			d.core.Env.Log.Error().Err(err).Msg("Keys of a logged-out device could not be discarded")
		}
	}
	return true
}

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
	give, err := d.schedule.UpkeepTurn.Take(ctx, struct{}{})
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
	a, err := e.owned.Claim(ctx, user, e.env.Store.Claim)
	if err != nil {
		return err
	}
	foreign := store.Device{DeviceID: device, State: store.DeviceForeign, Token: token, Meta: []byte(metaFullState)}
	if _, err := e.env.Store.CreateDevice(ctx, a.Row, foreign); err != nil {
		return fmt.Errorf("store foreign device: %w", err)
	}
	return nil
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
	if d.core.Mode != core.ModeProxied {
		return nil
	}
	if err := d.outbound.BeginSession(ctx); err != nil {
		return err
	}
	if len(password) == 0 {
		return nil
	}
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	d.ownIdentity.KeepPasswordLocked(password)
	return nil
}
