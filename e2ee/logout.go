package e2ee

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// UnknownToken tells that the homeserver has answered a client's request with 401
// M_UNKNOWN_TOKEN, soft or not. That may be about something else than the token, so the
// homeserver is asked about it, see sessionend.go. The keys of a hard logout are discarded,
// those of a soft logout are kept (requirement 22.1). A token that a newer one has replaced
// ends without its device (22.3).
func (e *Engine) UnknownToken(ctx context.Context, user id.UserID, device id.DeviceID, token secret.String, soft bool) error {
	if user == "" || device == "" {
		return nil
	}
	d := e.loaded(deviceKey{user, device})
	var current secret.String
	if d != nil {
		current = d.currentToken()
	} else {
		var err error
		if current, err = e.storedToken(ctx, user, device); err != nil {
			return err
		}
	}
	if current != token || current.IsZero() {
		return nil
	}
	ctx, cancel := detach(ctx, detachedFor)
	defer cancel()
	switch e.askEnd(ctx, token) {
	case endAlive, endUnknown:
		return nil
	case endSoft:
		soft = true
	case endGone:
	}
	if d != nil && !d.dropToken(token) || soft {
		return nil
	}
	return e.forgetDead(ctx, user, device, token)
}

// storedToken returns the token of a device that is not loaded; empty when there is none.
func (e *Engine) storedToken(ctx context.Context, user id.UserID, device id.DeviceID) (secret.String, error) {
	row, err := e.store.LookupAccount(ctx, user)
	if errors.Is(err, store.ErrNotFound) {
		return secret.String{}, nil
	}
	if err != nil {
		return secret.String{}, fmt.Errorf("load account: %w", err)
	}
	dev, err := e.store.Device(ctx, row, device)
	if errors.Is(err, store.ErrNotFound) {
		return secret.String{}, nil
	}
	if err != nil {
		return secret.String{}, fmt.Errorf("load device: %w", err)
	}
	return dev.Token, nil
}

// dropToken ends the use of a token and reports whether the device is left without
// one. A refreshed token takes over, if there is one.
func (p *part) dropToken(used secret.String) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.record.token != used {
		return false
	}
	p.record.token, p.record.nextToken = p.record.nextToken, secret.String{}
	return p.record.token.IsZero()
}

// tokenGone reports whether the homeserver has ended the device's session, as an answer
// to the proxy's own request tells and /account/whoami confirms. A locked user's session
// stays (requirement 22.2).
func (d *Device) tokenGone(used secret.String, err error) bool {
	var up *wire.UpstreamError
	if !errors.As(err, &up) || up.Status != http.StatusUnauthorized {
		return false
	}
	end := endSoft
	if up.ErrCode == "M_UNKNOWN_TOKEN" {
		if end = d.eng.askEnd(d.eng.ctx, used); end == endAlive || end == endUnknown {
			return false
		}
	}
	if !d.dropToken(used) {
		return false
	}
	if end == endGone && !up.SoftLogout {
		if err := d.eng.forgetDead(d.eng.ctx, d.acct.user, d.id, used); err != nil {
			d.eng.log.Error().Err(err).Msg("Keys of a logged-out device could not be discarded")
		}
	}
	return true
}
