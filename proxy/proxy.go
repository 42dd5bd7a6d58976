package proxy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/secret"
)

// Options are what a Proxy is made of.
type Options struct {
	// Homeserver is the base URL of the Client-Server API, http or https.
	Homeserver *url.URL
	// CAFile names further root certificates for the homeserver; may be empty.
	CAFile string
	// Handlers are the interceptors by key. Every key that the route table requires must
	// be there, and none that it does not know.
	Handlers map[string]interceptors.Handler
	Devices  interceptors.Devices
	// Hash is a keyed hash, under which tokens are cached and users logged.
	Hash func([]byte) [32]byte
	// OnUnknownToken is told of a token that the homeserver no longer knows, with who it
	// belonged to as far as that is known (the user is empty otherwise). It may be nil.
	// A refreshed token's predecessor ends like this too, without its device.
	OnUnknownToken func(ctx context.Context, who interceptors.Identity, softLogout bool) error
	// IdentityAge is how long a confirmed token is believed; 60 s when zero, and at most.
	IdentityAge time.Duration
	// IdentityCount is how many tokens are remembered; default 65,536.
	IdentityCount int
	// TrustedProxies may say who the client is. Nobody by default.
	TrustedProxies []netip.Prefix
	Limits         Limits
	Waits          Waits
	Deadlines      Deadlines
	Log            zerolog.Logger
	// Metrics takes the metrics; may be nil.
	Metrics prometheus.Registerer
}

// Proxy is the client-facing server. It is an http.Handler.
type Proxy struct {
	base    *url.URL
	prefix  string // the path of base, without a trailing slash
	table   *table
	other   *route // what passes without being in the table
	refused *route // what is refused before it is found in the table
	limits  Limits

	devices        interceptors.Devices
	identities     *identities
	onUnknownToken func(context.Context, interceptors.Identity, bool) error
	trusted        []netip.Prefix
	limiter        *limiter
	deadlines      Deadlines
	metrics        *metrics
	log            zerolog.Logger
	discard        *log.Logger

	trips     [lanes]http.RoundTripper
	pass      [lanes]http.Handler
	closeIdle func()

	draining context.Context
	drain    context.CancelFunc
	active   sync.WaitGroup
	ids      counter
	idPrefix string
}

// request is one request on its way.
type request struct {
	id      requestID
	w       *recorder
	r       *http.Request
	started time.Time

	route   *route // nil until step 4 has found one
	version string
	values  [maxParams]string
	path    string // as it goes upstream
	query   string // as it goes upstream
	cred    credentials
	who     interceptors.Identity
	body    *body
	err     error
	abort   bool // break the connection
}

// New makes a Proxy. Its errors name everything that is missing at once.
func New(o Options) (*Proxy, error) {
	if err := checkOptions(o); err != nil {
		return nil, err
	}
	var prefix [4]byte
	if _, err := rand.Read(prefix[:]); err != nil {
		return nil, fmt.Errorf("make a prefix for request IDs: %w", err)
	}
	limits := o.Limits.withDefaults()
	p := &Proxy{
		base: o.Homeserver, prefix: strings.TrimSuffix("/"+strings.Trim(o.Homeserver.EscapedPath(), "/"), "/"),
		limits: limits, limiter: newLimiter(limits), deadlines: o.Deadlines.withDefaults(),
		devices: o.Devices, onUnknownToken: o.OnUnknownToken, trusted: slices.Clone(o.TrustedProxies),
		log: o.Log, discard: log.New(io.Discard, "", 0), idPrefix: hex.EncodeToString(prefix[:]),
	}
	p.draining, p.drain = context.WithCancel(context.Background())
	var err error
	if p.metrics, err = newMetrics(o.Metrics, p.limiter); err != nil {
		return nil, err
	}
	if err := p.setRoutes(allRoutes(), o.Handlers); err != nil {
		return nil, err
	}
	age := o.IdentityAge
	if age <= 0 || age > maxIdentityAge {
		age = maxIdentityAge
	}
	count := o.IdentityCount
	if count <= 0 {
		count = 1 << 16
	}
	if p.identities, err = newIdentities(o.Hash, count, age, p.whoami); err != nil {
		return nil, err
	}
	p.identities.count = func(result string) { p.metrics.lookups.WithLabelValues(result).Inc() }
	if err := p.openUpstream(o.CAFile, o.Waits.withDefaults()); err != nil {
		return nil, err
	}
	return p, nil
}

func checkOptions(o Options) error {
	var errs []error
	switch {
	case o.Homeserver == nil:
		errs = append(errs, errors.New("there is no homeserver URL"))
	case o.Homeserver.Scheme != "http" && o.Homeserver.Scheme != "https", o.Homeserver.Host == "",
		o.Homeserver.User != nil, o.Homeserver.RawQuery != "", o.Homeserver.Fragment != "":
		errs = append(errs, errors.New("the homeserver URL must be http(s)://host[:port][/path] and nothing else"))
	}
	if o.Hash == nil {
		errs = append(errs, errors.New("there is no hash for tokens"))
	}
	if o.Devices == nil {
		errs = append(errs, errors.New("there are no devices"))
	}
	return errors.Join(errs...)
}

// setRoutes gives every row its handler and checks that none is missing or left over.
func (p *Proxy) setRoutes(rows []*route, handlers map[string]interceptors.Handler) error {
	var errs []error
	known := make(map[string]bool)
	p.other = &route{pattern: "other", maxBody: largeBody, lane: laneSlow, auth: authNone, class: classPass}
	p.refused = &route{pattern: "refused", class: classRefuse}
	for _, r := range append(rows, p.other, p.refused) {
		r.duration = p.metrics.duration.WithLabelValues(r.pattern)
		r.run = handlers[r.handler]
		known[r.handler] = r.handler != ""
		if r.class == classIntercept && r.run == nil && !known["missing "+r.handler] {
			known["missing "+r.handler] = true
			errs = append(errs, fmt.Errorf("there is no handler %q for %s %s", r.handler, r.method, r.pattern))
		}
	}
	for key := range handlers {
		if !known[key] {
			errs = append(errs, fmt.Errorf("the handler %q has no route", key))
		}
	}
	var err error
	if p.table, err = buildTable(rows); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ServeHTTP implements http.Handler: the steps of the package's description, in order.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.active.Add(1)
	defer p.active.Done()
	q := &request{id: requestID{p.idPrefix, p.ids.next()}, r: own(r), started: time.Now()}
	q.w = newRecorder(w, p.deadlines.Idle, q.started)
	defer p.finish(q)
	if err := p.serve(q); err != nil {
		p.render(q, err)
	}
}

// own copies what the steps change of a request. The server goes on using the original,
// to find out whether the connection can be kept and what of the body was not read.
func own(r *http.Request) *http.Request {
	c := new(http.Request)
	*c = *r
	c.Header = maps.Clone(r.Header)
	return c
}

// finish accounts for a request however it ended. A bug in a handler is this one
// request's error. The panic that it raises is net/http's way to break a connection,
// used for a response that cannot be finished.
func (p *Proxy) finish(q *request) {
	if v := recover(); v != nil {
		q.abort = true
		if err, ok := v.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
			// Its value could hold anything, so only its type and place are logged.
			p.log.Error().Str("request_id", q.id.String()).Str("panic", fmt.Sprintf("%T", v)).Bytes("stack", debug.Stack()).Msg("a handler failed")
			q.abort = q.w.status != 0
			if !q.abort {
				p.render(q, errors.New("a handler failed"))
			}
		}
	}
	q.w.extend(time.Now())
	p.account(q)
	if q.abort {
		panic(http.ErrAbortHandler)
	}
}

func (p *Proxy) serve(q *request) error {
	addr := peer(q.r)
	if err := cleanHeader(q.r.Header, p.isTrusted(addr)); err != nil {
		return interceptors.Unrecognized("Protocol upgrades are not supported.").Because(err)
	}
	setForwardedFor(q.r.Header, addr)
	if err := p.judge(q); err != nil {
		if q.r.Method == http.MethodOptions {
			preflight(q)
			return nil
		}
		return err
	}
	if q.r.Method == http.MethodOptions && q.route.class == classOwn {
		preflight(q)
		return nil
	}
	if q.route.class == classRefuse {
		return interceptors.NotImplemented(q.route.text)
	}
	if !p.limiter.enter(q.route.lane) {
		return interceptors.LimitExceeded(time.Second)
	}
	defer p.limiter.leave(q.route.lane)
	if err := p.limitBody(q); err != nil {
		return err
	}
	return p.dispatch(q)
}

// judge does steps 3 and 4: it finds the route and writes the path and the query anew.
func (p *Proxy) judge(q *request) error {
	var t target
	if err := t.parse(q.r.RequestURI); err != nil {
		return refusal(err)
	}
	switch q.r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodPatch:
	default:
		return interceptors.Unrecognized("This method is not known.")
	}
	found, err := p.table.find(q.r.Method, &t)
	if err != nil {
		return refusal(err)
	}
	if found.route != nil {
		q.route, q.version, q.values = found.route, t.version, found.values
		q.path = found.route.path(t.version, &q.values)
	} else {
		if q.path, err = t.unlisted(q.r.Method, found.guarded); err != nil {
			return refusal(err)
		}
		q.route = p.other
	}
	return p.readCredentials(q, &t)
}

// readCredentials reads the query and takes the access token out of it. What is no
// Matrix endpoint (single sign-on) keeps its query as it is.
func (p *Proxy) readCredentials(q *request, t *target) error {
	if t.area() == areaSSO {
		q.query = t.query
		return nil
	}
	parsed, err := readQuery(t.query)
	if err != nil {
		return interceptors.InvalidParam("The request cannot be understood: " + err.Error() + ".")
	}
	q.query = parsed.clean
	token, err := takeToken(q.r.Header, parsed)
	switch {
	case errors.Is(err, errTokenForm):
		return interceptors.UnknownToken(false).Because(err)
	case err != nil:
		return interceptors.MissingToken().WithHint("The request was refused because " + err.Error() + ".").Because(err)
	}
	q.cred = credentials{token: token, user: parsed.user, device: parsed.device}
	if parsed.twoAsserted && q.route.auth != authNone {
		return interceptors.InvalidParam("The request cannot be understood: " + errTwoAsserted.Error() + ".")
	}
	return nil
}

// refusal is what a client gets to read about a target that does not pass. The errors
// are this package's and hold nothing of the target.
func refusal(err error) *interceptors.Error {
	if errors.Is(err, errNotHere) {
		return interceptors.NotImplemented("There is no such endpoint.")
	}
	return interceptors.Unrecognized("The request was refused: " + err.Error() + ".").Because(err)
}

// limitBody does step 2 for the body. What has no body by its method loses it.
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
		return interceptors.TooLarge(limit)
	}
	if r.ContentLength == 0 {
		return nil
	}
	if q.route.run != nil && r.Header.Get("Content-Encoding") != "" {
		return interceptors.NewError(http.StatusUnsupportedMediaType, interceptors.CodeNotJSON, "Compressed request bodies are not supported here.")
	}
	q.body = &body{from: r.Body, size: limit, left: limit, deadline: readDeadline{conn: q.w.conn, idle: p.deadlines.Idle}}
	r.Body = q.body
	return nil
}

// dispatch does steps 5 to 7.
func (p *Proxy) dispatch(q *request) error {
	if q.route.run == nil || q.r.Method == http.MethodOptions {
		if q.route.class == classOwn {
			return interceptors.NotImplemented("This part of the proxy is not switched on.")
		}
		p.aim(q.r, q.path, q.query)
		return p.forward(q, q.r)
	}
	q.w.open = true
	if err := p.identify(q); err != nil {
		return err
	}
	if q.who.UserID != "" {
		place := holder{q.route.lane, q.who.UserID, q.who.DeviceID}
		if !p.limiter.enterAs(place) {
			return interceptors.LimitExceeded(time.Second)
		}
		defer p.limiter.leaveAs(place)
	}
	return p.intercept(q)
}

// identify does step 5.
func (p *Proxy) identify(q *request) error {
	var err error
	switch q.route.auth {
	case authNone:
		return nil
	case authOptional:
		if q.cred.token == "" {
			return nil
		}
		q.who, err = p.identities.of(q.r.Context(), q.cred)
		var said *interceptors.Error
		if errors.As(err, &said) && (said.Status == http.StatusUnauthorized || said.Status == http.StatusForbidden) {
			q.who, err = interceptors.Identity{Token: secret.NewString(q.cred.token)}, nil
		}
		return err
	case authUser:
	}
	if q.cred.token == "" {
		return interceptors.MissingToken()
	}
	q.who, err = p.identities.of(q.r.Context(), q.cred)
	return err
}
