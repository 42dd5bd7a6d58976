package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/config"
	"e2ee-proxy/console"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/rediscache"
	"e2ee-proxy/store"
)

// newConsole makes the console; nil if there is none.
func newConsole(cfg *config.Config, inForce *atomic.Pointer[config.Config], db *store.DB, engine *e2ee.Engine, client *http.Client, limits *interceptors.Limits, shared *rediscache.Cache) (*console.Console, error) {
	if !cfg.Console.Enabled {
		return nil, nil
	}
	o := console.Options{
		Sessions: db, Accounts: heldAccounts{engine}, Administration: engine.Overview(),
		Administrators: func() []id.UserID { return inForce.Load().Administrators },
		Homeserver:     cfg.Homeserver.URL(), Client: client, Limits: limits, Redis: shared,
	}
	apart := cfg.Console.Listen != ""
	switch {
	case !cfg.Console.URL.IsZero():
		o.URL = cfg.Console.URL.URL()
	case !apart && !cfg.PublicURL.IsZero():
		o.URL = cfg.PublicURL.URL()
	}
	if apart { // the homeserver's own pages are not there
		o.SingleSignOn = cfg.Homeserver.URL()
		if !cfg.PublicURL.IsZero() {
			o.SingleSignOn = cfg.PublicURL.URL()
		}
	}
	c, err := console.New(o)
	if err != nil {
		return nil, fmt.Errorf("make the console: %w", err)
	}
	return c, nil
}

// heldAccounts has the devices of an engine for which their owners act.
type heldAccounts struct{ engine *e2ee.Engine }

// Held implements [console.Accounts].
func (h heldAccounts) Held(ctx context.Context, user id.UserID) ([]console.Held, error) {
	all, err := h.engine.HeldDevices(ctx, user)
	if err != nil {
		return nil, err
	}
	var out []console.Held
	for _, d := range all {
		if d.Mode == e2ee.ModeProxied && d.HasToken {
			out = append(out, console.Held{DeviceID: d.DeviceID})
		}
	}
	return out, nil
}

// Device implements [console.Accounts].
func (h heldAccounts) Device(ctx context.Context, user id.UserID, device id.DeviceID) (console.Device, error) {
	d, err := h.engine.Held(ctx, user, device)
	if err != nil {
		return nil, err
	}
	return d, nil
}
