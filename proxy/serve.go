package proxy

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/cluster"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/secret"
)

// request is the state of one request.
type request struct {
	id      requestID
	w       *recorder
	r       *http.Request
	started time.Time

	route   *route // nil before step 4
	version string
	values  [maxParams]string
	path    string // as it goes upstream
	query   string // as it goes upstream
	cred    credentials
	who     interceptors.Identity
	// asserter is the owner of the token of a request that acts as somebody else.
	asserter id.UserID
	// from is the process of the cluster that has handed the request over, to the one that it was
	// handed to; both are empty for most.
	from, to string
	// again reports whether it may have been done already, by a process that ended before it answered.
	again bool
	// holds is the user whose account the request keeps here.
	holds id.UserID
	// local reports whether the request came by the socket that only the machine's owner may open.
	local bool
	held  held
	// onConsole reports whether the request came to the console's own listener.
	onConsole bool
	hasBody   bool
	body      *body
	err       error
	abort     bool // break the connection
	// passed reports whether nothing refers to this any more when the request is answered: it went
	// straight through, and had no body that the transport could still read.
	passed bool

	recorder recorder     // w
	cloned   http.Request // r, at first
}

// ServeHTTP implements http.Handler: the steps of the package's description, in order.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.active.Add(1)
	defer p.active.Done()
	q, ok := p.requests.Get().(*request)
	if !ok {
		q = new(request)
	}
	q.id = requestID{prefix: p.idPrefix, n: p.ids.next()}
	p.answer(w, r, q)
	if q.passed {
		*q = request{}
		p.requests.Put(q)
	}
}

// answer takes a request through the steps.
func (p *Proxy) answer(w http.ResponseWriter, r *http.Request, q *request) {
	q.r, q.w, q.started = &q.cloned, &q.recorder, time.Now()
	cloneRequest(q.r, r)
	q.hasBody = r.ContentLength != 0
	q.w.begin(w, r.ProtoMajor > 1, p.deadlines.Idle, q.started)
	q.w.forPeer = q.from != ""
	defer p.finish(q)
	if err := p.serve(q); err != nil {
		p.render(q, err)
	}
}

// cloneRequest copies those parts of a request that the steps change. The server goes on using the
// original, to find out whether the connection can be kept and what of the body was not
// read.
func cloneRequest(to, r *http.Request) {
	*to = *r
	to.Header = maps.Clone(r.Header)
}

// finish accounts for a request however it ended. A panic in a handler is an error of this
// request only. The panic that finish itself raises is net/http's way to break a
// connection, used for a response that cannot be finished.
func (p *Proxy) finish(q *request) {
	if v := recover(); v != nil {
		// Its value could hold anything, so only its type and place are logged.
		kind, stack := fmt.Sprintf("%T", v), debug.Stack()
		if of, ok := v.(*parallel.PanicError); ok {
			kind, stack = of.Kind, of.Stack
		}
		p.log.Error().Str("request_id", q.id.String()).Str("panic", kind).Bytes("stack", stack).Msg("a handler failed")
		q.abort = q.w.status != 0
		if !q.abort {
			p.render(q, errors.New("a handler failed"))
		}
	}
	now := time.Now()
	q.w.extend(now)
	q.abandon()
	if q.w.forPeer && q.w.status == 0 {
		q.w.WriteHeader(http.StatusOK) // as net/http would, with the mark
	}
	p.account(q, now.Sub(q.started))
	if q.abort {
		panic(http.ErrAbortHandler)
	}
}

func (p *Proxy) serve(q *request) error {
	if q.from == "" { // else the process that took it has done that
		addr := peer(q.r)
		if err := cleanHeader(q.r.Header, p.isTrusted(addr), p.readsForwarded); err != nil {
			return apierr.Unrecognized("Protocol upgrades are not supported.").Because(err)
		}
		p.setForwardedFor(q.r, addr)
	}
	if err := p.resolveEndpoint(q); err != nil {
		return err
	}
	if err := p.checkListener(q); err != nil {
		return err
	}
	if q.r.Method == http.MethodOptions && q.route.class == classOwn {
		preflight(q)
		return nil
	}
	if q.route.class == classRefuse {
		return apierr.NotImplemented(q.route.refusalText)
	}
	if q.local && q.route.class != classOwn {
		return apierr.NotImplemented("Nothing but the control API is on this socket.")
	}
	if !p.limiter.enter(q.route.lane) {
		return apierr.LimitExceeded(time.Second)
	}
	defer p.limiter.leave(q.route.lane)
	if err := p.limitBody(q); err != nil {
		return err
	}
	return p.dispatch(q)
}

// resolveEndpoint does steps 3 and 4: it finds the route and rebuilds the path and the query.
func (p *Proxy) resolveEndpoint(q *request) error {
	var t target
	if err := t.parse(q.r.RequestURI); err != nil {
		return refusal(err)
	}
	switch q.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodPatch:
	default:
		return apierr.Unrecognized("This method is not known.")
	}
	found, err := p.table.find(q.r.Method, &t)
	if err != nil {
		return refusal(err)
	}
	if found.route != nil {
		q.route, q.version, q.values = found.route, t.version, found.values
		q.path = found.route.path(t.version, &q.values)
	} else {
		if t.isConsole() {
			q.route = p.noPage
			return nil
		}
		if t.isControl() {
			return p.unknownCall(q, &t)
		}
		if q.path, err = t.unlisted(q.r.Method, found.guarded); err != nil {
			return refusal(err)
		}
		q.route = p.other
	}
	return p.readCredentials(q, &t)
}

// readCredentials parses the query and takes the access token out of it. A target that is
// no Matrix endpoint (single sign-on) keeps the rest of its query as it is.
func (p *Proxy) readCredentials(q *request, t *target) error {
	if t.area() == areaSSO {
		q.query = withoutToken(t.query)
		return nil
	}
	parsed, err := readQuery(t.query)
	if err != nil {
		return apierr.InvalidParam("The request cannot be understood: " + err.Error() + ".")
	}
	q.query = parsed.clean
	token, err := takeToken(q.r.Header, parsed)
	switch {
	case errors.Is(err, errTokenForm):
		return apierr.UnknownToken(false).Because(err)
	case err != nil:
		return apierr.MissingToken().WithHint("The request was refused because " + err.Error() + ".").Because(err)
	}
	if q.local {
		return q.readHeld(token != "")
	}
	q.cred = credentials{token: token, user: parsed.user, device: parsed.device}
	if parsed.twoAsserted && q.route.auth != authNone {
		return apierr.InvalidParam("The request cannot be understood: " + errTwoAsserted.Error() + ".")
	}
	return nil
}

// refusal returns the error that the client gets for a target that does not pass. The
// errors are this package's and hold nothing of the target.
func refusal(err error) *apierr.Error {
	text := "The request was refused: " + err.Error() + "."
	switch {
	case errors.Is(err, errNotHere):
		return apierr.NotImplemented("There is no such endpoint.")
	case errors.Is(err, errParam):
		return apierr.InvalidParam(text).Because(err)
	}
	return apierr.Unrecognized(text).Because(err)
}

// limitBody bounds the request's body by the route's limit. It removes the body of a method that has none.
func (p *Proxy) limitBody(q *request) error {
	r := q.r
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		r.Body, r.ContentLength, r.TransferEncoding = http.NoBody, 0, nil
		return nil
	}
	limit := q.route.maxBody
	if limit == uploadBody {
		limit = p.limits.MaxUpload
	}
	if r.ContentLength > limit {
		return apierr.TooLarge(limit)
	}
	if r.ContentLength == 0 {
		return nil
	}
	if q.route.run != nil && r.Header.Get("Content-Encoding") != "" {
		return apierr.NewError(http.StatusUnsupportedMediaType, apierr.CodeNotJSON, "Compressed request bodies are not supported here.")
	}
	q.body = &body{from: r.Body, size: limit, left: limit, deadline: readDeadline{conn: &q.w.conn, idle: p.deadlines.Idle, strict: q.w.strict}}
	r.Body = q.body
	return nil
}

// dispatch does steps 5 to 7.
func (p *Proxy) dispatch(q *request) error {
	if q.route.class == classConsole {
		return p.page(q)
	}
	if q.route.run == nil && !q.namesNotice() || q.r.Method == http.MethodOptions {
		if q.route.class == classOwn {
			return apierr.NotImplemented("This part of the proxy is not switched on.")
		}
		if p.owners != nil { // for the end of a session
			q.r = q.r.WithContext(cluster.WithRequest(q.r.Context(), q.id.String(), ""))
		}
		err := p.forward(q, q.r, q.path, q.query)
		q.passed = err == nil && q.body == nil
		return err
	}
	q.w.allowOrigin = true
	if err := p.identify(q); err != nil {
		return err
	}
	if p.owners != nil && !q.anywhere() {
		return p.atOwner(q)
	}
	return p.here(q)
}

// here has the request answered by this process, within the limits of its device.
func (p *Proxy) here(q *request) error {
	if q.who.UserID != "" {
		place := holder{q.route.lane, q.who.UserID, q.who.DeviceID}
		if !p.limiter.enterAs(place) {
			return apierr.LimitExceeded(time.Second)
		}
		defer p.limiter.leaveAs(place)
	}
	giveBack, err := p.reserve(q)
	if err != nil {
		return err
	}
	defer giveBack()
	return p.intercept(q)
}

// identify does step 5.
func (p *Proxy) identify(q *request) error {
	if q.local {
		return p.identifyHeld(q)
	}
	var err error
	switch q.route.auth {
	case authNone:
		if !q.namesNotice() { // else the answer depends on who asks
			return nil
		}
	case authOptional:
		if q.cred.token == "" {
			return nil
		}
		q.who, err = p.identities.owner(q.r.Context(), q.cred)
		var said *apierr.Error
		if errors.As(err, &said) && (said.Status == http.StatusUnauthorized || said.Status == http.StatusForbidden) {
			q.who, err = interceptors.Identity{Token: secret.NewString(q.cred.token)}, nil
		}
		return err
	case authUser:
	}
	if q.cred.token == "" {
		return apierr.MissingToken()
	}
	q.who, err = p.identities.owner(q.r.Context(), q.cred)
	if err == nil && (q.cred.user != "" || q.cred.device != "") {
		return p.noteAssertion(q)
	}
	return err
}

// noteAssertion finds out whether the token acts as somebody else than its owner, or as
// another device. For everybody but application services the assertion is ignored.
func (p *Proxy) noteAssertion(q *request) error {
	owner, err := p.identities.owner(q.r.Context(), credentials{token: q.cred.token})
	q.who.Asserted = owner.UserID != q.who.UserID || owner.DeviceID != q.who.DeviceID
	q.asserter = owner.UserID
	return err
}
