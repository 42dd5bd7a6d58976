package proxy

import (
	"context"
	"maps"
	"net"
	"net/http"
	"sync"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
)

// Rules of this file:
//   - Pages go through the same steps as everything else, but for identity: whose a request is
//     says a session of the console, never a token. No page is given to another origin, and
//     nothing of the console ever goes to the homeserver.
//   - A person who is refused gets a page, not JSON.

// consolePath is where the console is.
const consolePath = "/_e2ee_proxy/console"

// Pages is what the proxy needs of the console.
type Pages interface {
	// Begin finds the session of a request from a client's network. It returns the request with what
	// was found, and whose session it is; nobody's is no error.
	Begin(r *http.Request, from string) (*http.Request, id.UserID, error)
	// Refuse answers with a page that says why.
	Refuse(w http.ResponseWriter, r *http.Request, why *apierr.Error)
}

// consoleRoutes returns the pages of the console. One handler has them all, by method and pattern.
func consoleRoutes() []*route {
	page := func(method, path string, body int64, l lane, a auth) *route {
		return &route{method: method, pattern: consolePath + path, maxBody: body, lane: l, auth: a, class: classConsole, handler: interceptors.Console}
	}
	var all []*route
	for _, path := range []string{"/style.css", "/live.js"} {
		all = append(all, page("GET", path, noBody, laneQuick, authNone))
	}
	for _, path := range []string{"", "/", "/sign-in", "/sign-in/sso", "/sign-in/sso/return"} {
		all = append(all, page("GET", path, noBody, laneOwn, authOptional))
	}
	for _, path := range []string{"/sign-in", "/sign-in/token"} {
		all = append(all, page("POST", path, sessionBody, laneAuth, authOptional))
	}
	for _, path := range []string{
		"/people", "/people/{userId}", "/devices", "/warnings", "/recovery", "/backup", "/exceptions", "/rollout",
		"/verifications", "/verifications/{flowId}", "/verifications/{flowId}/qr.svg",
		"/admin", "/admin/accounts/{userId}", "/admin/exceptions", "/admin/warnings", "/admin/rollout",
	} {
		all = append(all, page("GET", path, noBody, laneOwn, authUser))
	}
	for _, path := range []string{
		"/sign-out", "/acting", "/people", "/people/{userId}/{action}", "/warnings/{warningId}/dismiss", "/recovery/{action}", "/backup/restore",
		"/verifications", "/verifications/{flowId}/{action}", "/admin/accounts/{userId}/end-sessions",
	} {
		all = append(all, page("POST", path, smallBody, laneOwn, authUser))
	}
	scan := page("POST", "/verifications/{flowId}/picture", pictureBody, laneOwn, authUser)
	scan.bodyUse = bodyEdited // it is held as it came
	return append(all, scan, page("GET", "/events", noBody, lanePoll, authUser))
}

// isConsole reports whether a target is in the console's part of the URL space.
func (t *target) isConsole() bool { return t.isControl() && t.n > 1 && t.segs[1] == "console" }

// isPage reports whether a request is to be answered with a page.
func (q *request) isPage() bool { return q.route != nil && q.route.class == classConsole }

// checkListener refuses pages where they do not exist, and everything else where only they do.
func (p *Proxy) checkListener(q *request) error {
	if q.from != "" { // the process that took it has done that
		return nil
	}
	if q.onConsole != (q.isPage() && p.apart) {
		if q.isPage() {
			q.route = p.refused
		}
		return refusal(errNotHere)
	}
	return nil
}

// page answers a request for the console: at the process that has the account of its session.
func (p *Proxy) page(q *request) error {
	if q.route.run == nil || p.pages == nil {
		return apierr.NotImplemented("There is no such page.")
	}
	if q.r.Method == http.MethodOptions {
		return apierr.NewError(http.StatusMethodNotAllowed, apierr.CodeUnrecognized, "The console is not for other websites.")
	}
	if q.route.auth != authNone {
		r, user, err := p.pages.Begin(q.r, networkOf(p.clientAddr(q.r)))
		if err != nil {
			return err //nolint:wrapcheck // it says what it is about
		}
		q.r, q.who = r, interceptors.Identity{UserID: user}
	}
	if q.route.lane == lanePoll {
		ctx, end := context.WithCancel(q.r.Context())
		defer end()
		defer context.AfterFunc(p.draining, end)()
		q.r = q.r.WithContext(ctx)
	}
	if p.owners != nil {
		return p.atOwner(q)
	}
	return p.here(q)
}

// renderPage answers with an error, for a person.
func (p *Proxy) renderPage(q *request, err error) {
	e := p.publicError(q, err)
	if p.pages == nil {
		p.renderError(q, e)
		return
	}
	maps.Copy(q.w.Header(), e.Header)
	p.pages.Refuse(q.w, q.r, e)
}

// ServeConsole answers the connections of ln with the console and nothing else, until ctx is done.
func (p *Proxy) ServeConsole(ctx context.Context, ln net.Listener) error {
	var active sync.WaitGroup
	return p.serveOn(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		active.Add(1)
		defer active.Done()
		p.answer(w, r, &request{id: requestID{prefix: p.idPrefix, n: p.ids.next()}, onConsole: true})
	}), &active)
}
