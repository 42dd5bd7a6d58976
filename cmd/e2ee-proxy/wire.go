package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/cluster"
	"e2ee-proxy/config"
	"e2ee-proxy/console"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/certificate"
	"e2ee-proxy/internal/ops"
	"e2ee-proxy/internal/rediscache"
	"e2ee-proxy/proxy"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// gateway holds the parts that run.
type gateway struct {
	log        zerolog.Logger
	homeserver string
	auditKeep  time.Duration
	db         *store.DB
	engine     *e2ee.Engine
	files      *interceptors.KeptFiles
	work       *interceptors.ControlWork
	proxy      *proxy.Proxy
	pages      *console.Console  // nil without the console
	pair       *certificate.Pair // nil without TLS
	// inForce is the configuration, as far as parts ask for it each time.
	inForce *atomic.Pointer[config.Config]
	outside outside
	ready   *ops.Readiness
	ops     *ops.Handler

	replica replica // zero for a process alone
	redis   *rediscache.Cache
	// advertise is where other replicas reach it, drainTimeout how long it may give accounts away.
	advertise    string
	drainTimeout time.Duration
}

// wire makes the parts from the configuration. Nothing runs yet.
func wire(cfg *config.Config, log zerolog.Logger, db *store.DB, registry *prometheus.Registry) (*gateway, error) {
	// The engine limits its own requests, some of which are long polls.
	transport, err := proxy.NewTransport(cfg.Upstream.CAFile, cfg.Upstream.ConnectTimeout, 0, cfg.Limits.IdleTimeout)
	if err != nil {
		return nil, &failure{exitConfig, fmt.Errorf("upstream.ca_file: %w", err), "name a file with certificates in PEM form, or remove the setting"}
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	inForce := new(atomic.Pointer[config.Config])
	inForce.Store(cfg)
	shared, err := newRedis(cfg, log, db, registry)
	if err != nil {
		return nil, err
	}
	engineOpts := engineOptions(cfg, inForce, log, db, client)
	engineOpts.Metrics, engineOpts.Answers = registry, sharedAnswers(shared)
	if engineOpts.Rules, err = rulesIn(cfg); err != nil {
		return nil, err
	}
	engine, err := e2ee.New(engineOpts)
	if err != nil {
		return nil, err
	}
	handling := interceptorOptions(cfg, inForce)
	handling.Files, handling.ControlWork, handling.EndConsoleSessions = interceptors.NewKeptFiles(), interceptors.NewControlWork(), db.EndConsoleSessionsOf
	handling.Administration, handling.Administrators = engine.Overview(), func() []id.UserID { return inForce.Load().Administrators }
	if handling.Limits, err = interceptors.NewLimits(shared); err != nil {
		return nil, err
	}
	handlers, err := interceptors.Handlers(handling)
	if err != nil {
		return nil, err
	}
	g := &gateway{
		log: log, homeserver: cfg.Homeserver.String(), auditKeep: cfg.Audit.Keep, db: db, engine: engine, files: handling.Files, work: handling.ControlWork, inForce: inForce, redis: shared,
		advertise: cfg.Cluster.Advertise.String(), drainTimeout: cfg.Limits.DrainTimeout,
	}
	pages, err := newConsole(cfg, inForce, db, engine, client, handling.Limits, shared)
	if err != nil {
		return nil, err
	}
	if pages != nil {
		handlers[interceptors.Console], g.pages = pages.Handler, pages
	}
	if err := g.wireProxy(cfg, handlers, registry); err != nil {
		return nil, err
	}
	g.ready = ops.NewReadiness(
		func(probe string, err error) { log.Warn().Str("check", probe).Err(err).Msg("a readiness check failed") },
		ops.Probe{Name: "database", Run: db.Ping},
		ops.Probe{Name: "homeserver", OnlyFirst: true, Run: homeserverAnswers(cfg, client)},
	)
	if err := registry.Register(g.ready); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	g.ops = ops.New(registry, g.ready, adminCalls(inForce, engine, log))
	return g, nil
}

// wireProxy makes the parts that answer clients and other replicas.
func (g *gateway) wireProxy(cfg *config.Config, handlers map[string]interceptors.Handler, registry *prometheus.Registry) error {
	options := proxyOptions(cfg, g.log, g.db, g.engine)
	options.Handlers, options.Metrics, options.Redis = handlers, registry, g.redis
	if g.pages != nil {
		options.Pages, options.ConsoleApart = g.pages, cfg.Console.Listen != ""
	}
	counts, err := cluster.NewMetrics(registry)
	if err != nil {
		return err
	}
	if g.replica, err = newReplica(cfg, g.log, g.db, g.engine, counts); err != nil {
		return err
	}
	g.replica.share(&options)
	if g.pair, err = loadCertificate(cfg.TLS, registry); err != nil {
		return err
	}
	if g.pair != nil {
		options.TLS = g.pair.Config()
	}
	if g.proxy, err = proxy.New(options); err != nil {
		return err
	}
	g.replica.serve(g.proxy, cfg.Limits.DrainTimeout)
	return nil
}

func engineOptions(cfg *config.Config, inForce *atomic.Pointer[config.Config], log zerolog.Logger, db *store.DB, client *http.Client) e2ee.Options {
	return e2ee.Options{
		Store: db, Homeserver: cfg.Homeserver.URL(), Client: client, Log: log,
		CachedUsers:     cfg.TrustCache.Users,
		Search:          e2ee.SearchOptions{Off: !cfg.Search.Index, Messages: cfg.Search.MaxMessages},
		Undecryptable:   undecryptable(cfg.Clients.Undecryptable),
		ManualBootstrap: cfg.Bootstrap == config.BootstrapManual,
		Account:         func(user id.UserID) e2ee.AccountSettings { return accountSettings(inForce.Load(), user) },
		Policy:          policyOf(inForce),
		PolicyVersion:   policyVersionOf(inForce),
	}
}

func accountSettings(cfg *config.Config, user id.UserID) e2ee.AccountSettings {
	own := cfg.Accounts[user]
	return e2ee.AccountSettings{
		AllowUnsigned:         !cfg.CrossSigningRequired(user),
		IgnoreSecretRequests:  cfg.Account.SecretRequests != config.SecretRequestsAnswer,
		AcknowledgeUnverified: own.AcknowledgeUnverifiedChanges == config.AcknowledgeAutomatic,
		AutoVerifyOwn:         slices.Contains(own.AutoVerify, config.AutoVerifyOwn),
		NoNotices:             cfg.NoticesHidden(user),
		ControlRoom:           cfg.Policy.ControlRoom == config.SwitchOn,
		MediaLinks:            cfg.LinksShown(user),
		RecoveryKey:           own.RecoveryKey,
		Passphrase:            own.Passphrase,
	}
}

// policyOf returns a function that returns the policy in force now. Bridges stay those of the
// start.
func policyOf(inForce *atomic.Pointer[config.Config]) func() trustcache.Policy {
	bridges := make(map[id.UserID]bool)
	for _, user := range inForce.Load().Policy.Bridges {
		bridges[user] = true
	}
	return func() trustcache.Policy {
		p, now := &inForce.Load().Policy, time.Now()
		return trustcache.Policy{
			Send:     trustMode(p.Send.At(now)),
			Receive:  trustMode(p.Receive.At(now)),
			Native:   trustMode(p.Native.At(now)),
			InClear:  inClear(p.PlainInEncrypted),
			Unproven: unproven(p.Unproven),
			Withheld: withheld(p.Withheld),
			Bridges:  bridges,

			NativeChanges: nativeChanges(p.NativeIdentityChanges),
		}
	}
}

func trustMode(m config.Mode) trustcache.Mode {
	switch m {
	case config.Enforce:
		return trustcache.ModeEnforce
	case config.Warn:
		return trustcache.ModeWarn
	case config.Off:
		return trustcache.ModeOff
	}
	return trustcache.ModeEnforce
}

func nativeChanges(c config.NativeIdentityChanges) trustcache.NativeChanges {
	switch c {
	case config.NativeChangesWarn:
		return trustcache.NativeChangesWarn
	case config.NativeChangesBlock:
		return trustcache.NativeChangesBlock
	}
	return trustcache.NativeChangesBlock
}

func inClear(p config.PlainInEncrypted) trustcache.InClear {
	switch p {
	case config.PlainMark:
		return trustcache.InClearMark
	case config.PlainWithhold:
		return trustcache.InClearWithhold
	}
	return trustcache.InClearWithhold
}

func unproven(u config.Unproven) trustcache.Unproven {
	switch u {
	case config.UnprovenShow:
		return trustcache.UnprovenShow
	case config.UnprovenWithhold:
		return trustcache.UnprovenWithhold
	}
	return trustcache.UnprovenWithhold
}

func withheld(w config.Withheld) trustcache.Withheld {
	switch w {
	case config.WithheldPlaceholder:
		return trustcache.WithheldPlaceholder
	case config.WithheldHide:
		return trustcache.WithheldHide
	}
	return trustcache.WithheldPlaceholder
}

func undecryptable(u config.Undecryptable) e2ee.Undecryptable {
	switch u {
	case config.UndecryptableHold:
		return e2ee.UndecryptableHold
	case config.UndecryptablePlaceholder:
		return e2ee.UndecryptablePlaceholder
	case config.UndecryptableEvent:
		return e2ee.UndecryptableEvent
	}
	return e2ee.UndecryptableHold
}

func interceptorOptions(cfg *config.Config, inForce *atomic.Pointer[config.Config]) interceptors.Options {
	o := interceptors.Options{NativeClearText: cfg.Policy.NativeClearText == config.NativePass, URLPreviews: cfg.Media.URLPreviews == config.URLPreviewsPass, MaxUpload: int64(cfg.Limits.Upload), Sync: interceptors.SyncOptions{
		ShowEncryptionState: cfg.Clients.ShowEncryptionState,
		MaxTimeout:          cfg.Limits.SyncWait,
		KeyWait:             cfg.Clients.KeyWait,
		SpoolDir:            cfg.Data,
		SpoolMemory:         int64(cfg.Limits.SpoolMemory),
		SpoolDisk:           interceptors.NewSpoolDisk(int64(cfg.Limits.SpoolDisk), int64(cfg.Limits.SpoolDiskPerUser)),
	}, HideNotices: func(user id.UserID) bool { return inForce.Load().NoticesHidden(user) }}
	if !cfg.PublicURL.IsZero() {
		o.PublicURL = cfg.PublicURL.URL()
	}
	return o
}

func proxyOptions(cfg *config.Config, log zerolog.Logger, db *store.DB, engine *e2ee.Engine) proxy.Options {
	l, u := cfg.Limits, cfg.Upstream
	return proxy.Options{
		Homeserver: cfg.Homeserver.URL(), CAFile: u.CAFile, TrustedProxies: cfg.TrustedProxies, Log: log,
		ReadsForwarded: cfg.ForwardedHeader == config.ForwardedHeaderStandard, ProxyProtocol: cfg.ListenProxyProtocol,
		Devices:        interceptors.NewDevices(engine),
		Hash:           func(b []byte) [32]byte { return db.Hash("access token", b) },
		OnUnknownToken: forgetDevice(engine),
		Limits: proxy.Limits{
			MaxUpload:  int64(l.Upload),
			BodyMemory: int64(l.BodyMemory), BodyMemoryPerUser: int64(l.BodyMemoryPerUser),
			Send:  proxy.LaneLimit{Total: l.Sends, PerIdentity: l.SendsPerDevice},
			Poll:  proxy.LaneLimit{Total: l.Syncs, PerIdentity: l.SyncsPerDevice},
			Auth:  proxy.LaneLimit{Total: l.Logins},
			Media: proxy.LaneLimit{Total: l.Media},
		},
		Waits:     proxy.Waits{Quick: u.Timeout, Slow: u.FederationTimeout, Poll: u.SyncTimeout, Dial: u.ConnectTimeout},
		Deadlines: proxy.Deadlines{Header: l.HeaderTimeout, KeepAlive: l.KeepAliveTimeout, Idle: l.IdleTimeout, Drain: l.DrainTimeout},
	}
}

// forgetDevice returns the function that the proxy calls for M_UNKNOWN_TOKEN: it hands the
// token to the engine.
func forgetDevice(engine *e2ee.Engine) func(context.Context, interceptors.Identity, bool) error {
	return func(ctx context.Context, who interceptors.Identity, softLogout bool) error {
		return engine.UnknownToken(ctx, who.UserID, who.DeviceID, who.Token, softLogout)
	}
}
