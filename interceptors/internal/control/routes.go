package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
)

// Rules of this file:
//   - Package proxy decides first, from the path that it found canonical and rebuilt, by
//     its own table; the router here sees that path, never the client's bytes.
//   - Parameters are those of package proxy, percent-decoded once.
//   - Both must find the same call, or nothing is done.

const prefix = "/_e2ee_proxy/v1"

// call is one call of the control API.
type call struct {
	name string // its name in package proxy's table
	// method and path, below the prefix, are those of the row in package proxy's table.
	method, path string
	// anyToken reports whether every token may call it, ownKeys whether that of a device with
	// keys of its own may; the others need a proxied device.
	anyToken, ownKeys bool
	// ofUser reports whether it is about the user, whatever device is used.
	ofUser bool
	// admin reports whether administrators may call it, and nobody else; their devices matter not.
	admin bool

	do func(a request) (any, error)
}

// calls returns all calls. The zero value of a field is the stricter one.
func (c *api) calls() []call {
	return append(c.verificationCalls(), []call{
		{name: Status, method: http.MethodGet, path: "/status", anyToken: true, do: getStatus},
		{name: Checkup, method: http.MethodPost, path: "/checkup", anyToken: true, do: c.checkup},
		{name: Bootstrap, method: http.MethodPost, path: "/bootstrap", do: c.bootstrap},
		{name: Recover, method: http.MethodPost, path: "/recover", do: c.recover},
		{name: Reset, method: http.MethodPost, path: "/reset", do: c.reset},
		{name: RecoveryKey, method: http.MethodGet, path: "/recovery_key", do: getRecoveryKey},
		{name: DeleteRecoveryKey, method: http.MethodDelete, path: "/recovery_key", do: deleteRecoveryKey},
		{name: User, method: http.MethodGet, path: "/users/{userId}", ownKeys: true, do: getUser},
		{name: Acknowledge, method: http.MethodPost, path: "/users/{userId}/acknowledge", ownKeys: true, do: acknowledge},
		{name: Withdraw, method: http.MethodPost, path: "/users/{userId}/withdraw_verification", ownKeys: true, do: withdraw},
		{name: Override, method: http.MethodPut, path: "/users/{userId}/devices/{deviceId}/override", ownKeys: true, do: setOverride},
		{name: Warnings, method: http.MethodGet, path: "/warnings", ownKeys: true, do: listWarnings},
		{name: Dismiss, method: http.MethodPost, path: "/warnings/{warningId}/dismiss", ownKeys: true, do: dismiss},
		{name: ExportKeys, method: http.MethodPost, path: "/keys/export", do: c.exportKeys},
		{name: ImportKeys, method: http.MethodPost, path: "/keys/import", do: c.importKeys},
		{name: RestoreKeys, method: http.MethodPost, path: "/keys/restore", do: c.restoreKeys},
		{name: Devices, method: http.MethodGet, path: "/devices", ofUser: true, do: listDevices},
		{name: AdminAccounts, method: http.MethodGet, path: "/admin/accounts", admin: true, do: c.adminAccounts},
		{name: AdminAccount, method: http.MethodGet, path: "/admin/accounts/{userId}", admin: true, do: c.adminAccount},
		{name: AdminEndSessions, method: http.MethodPost, path: "/admin/accounts/{userId}/end_sessions", admin: true, do: c.adminEndSessions},
		{name: AdminExceptions, method: http.MethodGet, path: "/admin/exceptions", admin: true, do: c.adminExceptions},
		{name: AdminWarnings, method: http.MethodGet, path: "/admin/warnings", admin: true, do: c.adminWarnings},
		{name: AdminRollout, method: http.MethodGet, path: "/admin/rollout", admin: true, do: c.adminRollout},
	}...)
}

// route registers the calls.
func (c *api) route() {
	c.routes = chi.NewMux()
	c.routes.Use(noStore)
	c.routes.NotFound(withError(func(*request) error { return apierr.NotImplemented("There is no such endpoint.") }))
	c.routes.MethodNotAllowed(withError(c.otherMethod))
	for _, call := range c.calls() {
		steps := chi.Middlewares{decidedAs(call.name), withDevice}
		switch {
		case call.admin:
			steps = chi.Middlewares{decidedAs(call.name), c.adminOnly}
		case call.ofUser:
			steps = chi.Middlewares{decidedAs(call.name), usersOnly}
		case !call.anyToken:
			steps = append(steps, call.deviceOnly)
		}
		c.routes.With(steps...).Method(call.method, prefix+call.path, withError(call.answer))
	}
}

// handlers returns every call under its name, and under None the one that refuses.
func (c *api) handlers() map[string]exchange.Handler {
	all := map[string]exchange.Handler{None: c.handlerNamed(None)}
	for _, call := range c.calls() {
		all[call.name] = c.handlerNamed(call.name)
	}
	return all
}

// handlerNamed returns the handler for a request that package proxy decided to be the named call.
func (c *api) handlerNamed(name string) exchange.Handler {
	return func(x *exchange.Exchange) error {
		a := &request{Exchange: x, ctx: x.Request.Context(), name: name, err: errNoAnswer}
		at := chi.NewRouteContext()
		at.Routes, at.RoutePath = c.routes, pathOf(x.Request.URL)
		ctx := context.WithValue(context.WithValue(a.ctx, chi.RouteCtxKey, at), askedKey{}, a)
		c.routes.ServeHTTP(x.Writer, x.Request.WithContext(ctx))
		return a.err
	}
}

// pathOf returns the path that package proxy built. If it is empty, chi would use
// another one.
func pathOf(u *url.URL) string {
	if u.Opaque == "" {
		return "/"
	}
	return u.Opaque
}

var errNoAnswer = errors.New("a call of the control API came to no end")

// request is one request of the control API.
type request struct {
	*exchange.Exchange
	ctx context.Context
	exchange.Control
	name string // the call that package proxy decided on
	dev  exchange.Device
	// err is the result of the call. It is an error until the call has succeeded.
	err error
}

type askedKey struct{}

// withError adapts a handler that returns an error to net/http.
func withError(do func(a *request) error) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		if a, ok := r.Context().Value(askedKey{}).(*request); ok {
			a.err = do(a)
		}
	}
}

// middleware makes middleware of a check that may refuse.
func middleware(check func(a *request) error) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			a, ok := r.Context().Value(askedKey{}).(*request)
			if !ok {
				return
			}
			if err := check(a); err != nil {
				a.err = err
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// noStore sets Cache-Control: no-store, since some answers are secrets.
func noStore(next http.Handler) http.Handler {
	return middleware(func(a *request) error {
		a.Writer.Header().Set("Cache-Control", "no-store")
		return nil
	})(next)
}

// decidedAs refuses unless package proxy decided on the same call.
func decidedAs(name string) func(http.Handler) http.Handler {
	return middleware(func(a *request) error {
		if a.name != name {
			return fmt.Errorf("the route table says %q and the control API %q", a.name, name)
		}
		return nil
	})
}

// withDevice loads the device of the request.
func withDevice(next http.Handler) http.Handler {
	return middleware(func(a *request) (err error) {
		if a.dev, err = a.Exchange.Device(); err == nil {
			a.Control = a.dev.Control()
		}
		return err
	})(next)
}

// deviceOnly refuses devices whose keys the proxy does not hold, unless they have keys of their
// own and the call is for them too.
func (k call) deviceOnly(next http.Handler) http.Handler {
	return middleware(func(a *request) error {
		if k.ownKeys && a.dev.Mode() == e2ee.ModeForeign {
			return nil
		}
		return notProxied(a.dev.Mode())
	})(next)
}

// answer runs the call and writes its answer.
func (k call) answer(a *request) error {
	out, err := k.do(*a)
	if err != nil {
		return clientError(err)
	}
	if _, ok := out.(answered); ok {
		return nil
	}
	return a.WriteJSON(out)
}

// otherMethod refuses a method that a path does not have, and names those that it has (405
// M_UNRECOGNIZED: Client-Server API, "Common error codes").
func (c *api) otherMethod(a *request) error {
	path := pathOf(a.Request.URL)
	var has []string
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete} {
		if c.routes.Match(chi.NewRouteContext(), method, path) {
			has = append(has, method)
		}
	}
	if len(has) == 0 { // chi does not know the method
		return apierr.NotImplemented("There is no such endpoint.")
	}
	e := apierr.NewError(http.StatusMethodNotAllowed, apierr.CodeUnrecognized, "This path is not for "+a.Request.Method+".").
		WithHint("Use " + strings.Join(has, " or ") + ".")
	e.Header = http.Header{"Allow": {strings.Join(has, ", ")}}
	return e
}
