package proxy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/budget"
	"e2ee-proxy/internal/rediscache"
)

// Options configures a Proxy.
type Options struct {
	// Homeserver is the base URL of the Client-Server API, http or https.
	Homeserver *url.URL
	// CAFile names further root certificates for the homeserver; may be empty.
	CAFile string
	// Handlers are the interceptors by key. Every key that the route table requires must be
	// there, and no unknown one.
	Handlers map[string]interceptors.Handler
	Devices  interceptors.Devices
	// Hash is a keyed hash, under which tokens are cached and users logged.
	Hash func([]byte) [32]byte
	// OnUnknownToken is called when the homeserver has answered M_UNKNOWN_TOKEN to a request
	// with a token, with its owner as far as known (the user is empty otherwise). It may be
	// nil. It must find out itself whether the session has really ended: the predecessor of a
	// refreshed token gets the same answer, and its device lives on.
	OnUnknownToken func(ctx context.Context, who interceptors.Identity, softLogout bool) error
	// IdentityAge is how long a confirmed token is believed; 60 s when zero, and at most.
	IdentityAge time.Duration
	// IdentityCount is how many tokens are cached; default 65,536.
	IdentityCount int
	// TrustedProxies may report who the client is. Nobody by default.
	TrustedProxies []netip.Prefix
	// ReadsForwarded reports whether they do in Forwarded (RFC 7239), and not in
	// X-Forwarded-For.
	ReadsForwarded bool
	// ProxyProtocol reports whether they begin each connection with a header of the PROXY
	// protocol.
	ProxyProtocol bool
	Limits        Limits
	Waits         Waits
	Deadlines     Deadlines
	// TLS makes Serve speak TLS, with HTTP/1.1 and HTTP/2; nil for plain HTTP/1.1.
	TLS *tls.Config
	// Owners is the cluster that this process is a part of; nil when it is alone.
	Owners Owners
	// Pages is the console; nil when it is off. Its handler is in Handlers. ConsoleApart says that it
	// has a listener of its own, [Proxy.ServeConsole], and does not exist on the clients'.
	Pages        Pages
	ConsoleApart bool
	// Redis is the cache that this process shares with the other replicas; nil without one.
	Redis *rediscache.Cache
	Log   zerolog.Logger
	// Metrics takes the metrics; may be nil.
	Metrics prometheus.Registerer
}

// Proxy is the client-facing server. It is an http.Handler.
type Proxy struct {
	base    *url.URL
	prefix  string // the path of base, without a trailing slash
	table   *table
	other   *route // what passes without a row in the table
	refused *route // what is refused before a row is found
	// noControl refuses what is no call of the control API; nil when the API is off.
	noControl interceptors.Handler
	// ownNames answers what names something that only the proxy knows.
	ownNames interceptors.Handler
	limits   Limits
	// pages is the console, nil without one; apart says that it has its own listener, and noPage is
	// what is no page of it.
	pages  Pages
	apart  bool
	noPage *route

	devices        interceptors.Devices
	owners         Owners // nil for a process alone
	identities     *identities
	onUnknownToken func(context.Context, interceptors.Identity, bool) error
	trusted        []netip.Prefix
	readsForwarded bool
	proxyProtocol  bool
	limiter        *limiter
	memory         *budget.Budget // for what handlers hold of request bodies
	deadlines      Deadlines
	tls            *tls.Config // nil without TLS
	metrics        *metrics
	log            zerolog.Logger
	discard        *log.Logger

	trips     [lanes]http.RoundTripper
	buffers   bufferPool // for bodies that are copied to a client
	writers   writerPool // for those that write themselves
	watches   watchPool  // for bodies that come from the homeserver
	requests  sync.Pool  // of *request, zero
	closeIdle func()

	draining context.Context
	drain    context.CancelFunc
	active   sync.WaitGroup
	ids      counter
	idPrefix string
}

// New makes a Proxy. Its error lists everything that is missing at once.
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
		limits: limits, limiter: newLimiter(limits), memory: budget.New(limits.BodyMemory, limits.BodyMemoryPerUser),
		deadlines: o.Deadlines.withDefaults(), tls: o.TLS,
		pages: o.Pages, apart: o.ConsoleApart,
		devices: o.Devices, owners: o.Owners, onUnknownToken: o.OnUnknownToken, trusted: slices.Clone(o.TrustedProxies),
		readsForwarded: o.ReadsForwarded, proxyProtocol: o.ProxyProtocol,
		log: o.Log, discard: log.New(io.Discard, "", 0), idPrefix: hex.EncodeToString(prefix[:]),
	}
	p.draining, p.drain = context.WithCancel(context.Background())
	var err error
	if p.metrics, err = newMetrics(o.Metrics, p.limiter, p.memory); err != nil {
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
	p.identities.share(o.Redis, o.Owners)
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

// setRoutes sets the handler of every row and checks that none is missing or left over.
func (p *Proxy) setRoutes(rows []*route, handlers map[string]interceptors.Handler) error {
	var errs []error
	known := make(map[string]bool)
	p.other = &route{pattern: "other", maxBody: largeBody, lane: laneSlow, auth: authNone, class: classPass}
	p.refused = &route{pattern: "refused", class: classRefuse}
	p.noPage = &route{pattern: consolePath + "/other", lane: laneOwn, auth: authNone, class: classConsole}
	for _, r := range append(rows, p.other, p.refused, p.noPage) {
		r.duration = p.metrics.duration.WithLabelValues(r.durationLabel())
		r.run = handlers[r.handler]
		known[r.handler] = r.handler != ""
		if r.class == classIntercept && r.run == nil && !known["missing "+r.handler] {
			known["missing "+r.handler] = true
			errs = append(errs, fmt.Errorf("there is no handler %q for %s %s", r.handler, r.method, r.pattern))
		}
	}
	p.noControl, known[interceptors.ControlNone] = handlers[interceptors.ControlNone], true
	p.ownNames, known[interceptors.OwnNames] = handlers[interceptors.OwnNames], true
	if p.ownNames == nil {
		p.ownNames = interceptors.AnswerNotice
	}
	for key := range handlers {
		if !known[key] {
			errs = append(errs, fmt.Errorf("the handler %q has no route", key))
		}
	}
	if err := checkMemory(rows, p.limits); err != nil {
		errs = append(errs, err)
	}
	var err error
	if p.table, err = buildTable(rows); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
