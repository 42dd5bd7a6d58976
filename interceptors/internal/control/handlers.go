package control

import (
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/secret"
)

// GET status answers for every token; everything else is 409 for a device whose keys the
// proxy does not hold. Answers are never cached: some are secrets.

// Limits of what somebody with a stolen token might guess or break.
const (
	recoverBurst    = 5
	recoverInterval = time.Minute
	resetBurst      = 5 // each reset may take two calls
	resetInterval   = 5 * time.Minute
	checkupBurst    = 5 // each asks the homeserver a lot
	checkupInterval = 10 * time.Second
	pictureBurst    = 10 // reading one takes seconds of a core
	pictureInterval = 10 * time.Second
)

// api holds the handlers of the control API.
type api struct {
	*Limits
	spools  exchange.Spools
	reading chan struct{} // who looks at a picture
	routes  *chi.Mux

	administration Administration
	administrators func() []id.UserID
}

func newAPI(s exchange.Spools, limits *Limits) *api {
	c := &api{Limits: limits, spools: s, reading: make(chan struct{}, readings)}
	c.route()
	return c
}

// Handlers returns the handlers of the control API by name. They share state between
// requests, so that a process calls this once. administrators returns who may call those of
// administrators; nil is nobody.
func Handlers(s exchange.Spools, limits *Limits, of Administration, administrators func() []id.UserID) map[string]exchange.Handler {
	c := newAPI(s, limits)
	c.administration, c.administrators = of, administrators
	return c.handlers()
}

// answered is returned by calls that have written their answer themselves.
type answered struct{}

// done is the answer of calls that return nothing.
type done struct{}

// keyAnswer returns an answer with a recovery key, if there is one. Only here it is
// revealed.
func keyAnswer(key secret.String) any {
	return struct {
		RecoveryKey string `json:"recovery_key,omitempty"`
	}{key.Reveal()}
}

func getStatus(a request) (any, error) {
	status, err := a.Status(a.ctx)
	if err != nil {
		return nil, err
	}
	// An empty list is [], not null.
	status.OtherDevices = notNil(status.OtherDevices)
	status.Overrides = notNil(status.Overrides)
	status.Problems = notNil(status.Problems)
	status.Warnings = notNil(status.Warnings)
	return status, nil
}

func (c *api) checkup(a request) (any, error) {
	var body struct {
		Talk *bool `json:"talk"`
	}
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	if err := c.Limits.checkup(a.ctx, a.Identity.UserID); err != nil {
		return nil, err
	}
	links, err := a.Checkup(a.ctx, body.Talk != nil && *body.Talk)
	if err != nil {
		return nil, err
	}
	return struct {
		Links []e2ee.CheckupLink `json:"links"`
	}{notNil(links)}, nil
}

func (c *api) bootstrap(a request) (any, error) {
	var body authBody
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	if body.Confirm != nil {
		return nil, apierr.BadJSON("bootstrap replaces nothing and takes no confirm.")
	}
	auth, err := body.auth()
	if err != nil {
		return nil, err
	}
	key, err := a.Bootstrap(a.ctx, auth)
	if err != nil {
		return nil, err
	}
	return keyAnswer(key), nil
}

func (c *api) recover(a request) (any, error) {
	var body recoverBody
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	with, err := body.recovery()
	if err != nil {
		return nil, err
	}
	if err := c.Limits.Recover(a.ctx, a.Identity.UserID); err != nil {
		return nil, err
	}
	return done{}, a.Recover(a.ctx, with)
}

func (c *api) reset(a request) (any, error) {
	var body authBody
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	if body.Confirm == nil || !*body.Confirm {
		return nil, apierr.MissingParam("A reset makes a new digital identity: everybody will be told, and what only the old recovery key opens is lost.").
			WithHint(`Say "confirm": true if that is what you want.`)
	}
	auth, err := body.auth()
	if err != nil {
		return nil, err
	}
	if err := c.Limits.Reset(a.ctx, a.Identity.UserID); err != nil {
		return nil, err
	}
	key, err := a.ResetOnce(a.ctx, a.RequestID, auth)
	if err != nil {
		return nil, err
	}
	return keyAnswer(key), nil
}

func getRecoveryKey(a request) (any, error) {
	key, err := a.RecoveryKey(a.ctx)
	if err == nil && key.IsZero() {
		err = e2ee.ErrNoRecoveryKey
	}
	if err != nil {
		return nil, err
	}
	return keyAnswer(key), nil
}

func deleteRecoveryKey(a request) (any, error) {
	return done{}, a.DeleteRecoveryKey(a.ctx)
}

// userParam returns the user that the path names.
func userParam(x *exchange.Exchange) (id.UserID, error) {
	user := x.Endpoint.Params["userId"]
	if !exchange.ValidUser(user) {
		return "", apierr.InvalidParam("{userId} in the path is not a user ID.").WithHint("One looks like @alice:example.org.")
	}
	return id.UserID(user), nil
}

func getUser(a request) (any, error) {
	user, err := userParam(a.Exchange)
	if err != nil {
		return nil, err
	}
	trust, err := a.User(a.ctx, user)
	if err != nil {
		return nil, err
	}
	trust.Devices = notNil(trust.Devices)
	return trust, nil
}

func acknowledge(a request) (any, error) {
	user, err := userParam(a.Exchange)
	if err != nil {
		return nil, err
	}
	var body acknowledgeBody
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	key, err := body.masterKey()
	if err != nil {
		return nil, err
	}
	return done{}, a.Acknowledge(a.ctx, user, key)
}

func withdraw(a request) (any, error) {
	user, err := userParam(a.Exchange)
	if err != nil {
		return nil, err
	}
	if err := readBody(a.Exchange, &emptyBody{}); err != nil {
		return nil, err
	}
	return done{}, a.WithdrawVerification(a.ctx, user)
}

func setOverride(a request) (any, error) {
	user, err := userParam(a.Exchange)
	if err != nil {
		return nil, err
	}
	dev := id.DeviceID(a.Endpoint.Params["deviceId"])
	if dev == "" {
		return nil, apierr.InvalidParam("{deviceId} in the path is not a device ID.")
	}
	var body overrideBody
	if err := readBody(a.Exchange, &body); err != nil {
		return nil, err
	}
	trusted, err := body.trusted()
	if err != nil {
		return nil, err
	}
	return done{}, a.SetOverride(a.ctx, user, dev, trusted)
}

func listWarnings(a request) (any, error) {
	warnings, err := a.Warnings(a.ctx)
	if err != nil {
		return nil, err
	}
	return struct {
		Warnings []e2ee.Warning `json:"warnings"`
	}{notNil(warnings)}, nil
}

func dismiss(a request) (any, error) {
	warning := a.Endpoint.Params["warningId"]
	if warning == "" {
		return nil, apierr.NewError(http.StatusNotFound, apierr.CodeNotFound, "There is no such warning.")
	}
	if err := readBody(a.Exchange, &emptyBody{}); err != nil {
		return nil, err
	}
	return done{}, a.DismissWarning(a.ctx, warning)
}

func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
