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
	row, err := e.env.Store.LookupAccount(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load account: %w", err)
	}
	e.mu.Lock()
	a := e.accounts[user]
	delete(e.accounts, user)
	e.mu.Unlock()
	if a != nil {
		a.Tracker.Close()
	}
	if err := e.env.Store.DeleteAccount(ctx, row); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("forget account: %w", err)
	}
	return nil
}

// forgetEnded deletes those of the chosen devices whose sessions have ended, and returns
// how many it kept. dead is a token whose session is known to have ended.
func (e *Engine) forgetEnded(ctx context.Context, user id.UserID, dead secret.String, which func(id.DeviceID) bool) (kept int, err error) {
	row, err := e.env.Store.LookupAccount(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("load account: %w", err)
	}
	stored, err := e.env.Store.Devices(ctx, row)
	if err != nil {
		return 0, fmt.Errorf("load devices: %w", err)
	}
	stored = slices.DeleteFunc(stored, func(dev store.Device) bool { return !which(dev.DeviceID) })
	ends := make([]sessionEnd, len(stored))
	var asking errgroup.Group
	asking.SetLimit(askEndAtOnce)
	for i := range stored {
		asking.Go(func() error {
			ends[i] = e.endOf(ctx, user, &stored[i], dead)
			return nil
		})
	}
	_ = asking.Wait() // none of them returns an error
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
	row, err := e.env.Store.LookupAccount(ctx, user)
	if err != nil {
		return fmt.Errorf("load account: %w", err)
	}
	dev, err := e.env.Store.Device(ctx, row, device)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load device: %w", err)
	}
	return e.forget(ctx, row, dev)
}
