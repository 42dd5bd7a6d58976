package e2ee

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// UnknownToken handles a 401 M_UNKNOWN_TOKEN, soft or not, that the homeserver answered to
// a client. It may have another cause, so /account/whoami is asked, see sessionend.go.
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
	row, err := e.env.Store.LookupAccount(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return secret.String{}, nil
	}
	if err != nil {
		return secret.String{}, fmt.Errorf("load account: %w", err)
	}
	dev, err := e.env.Store.Device(ctx, row, device)
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
