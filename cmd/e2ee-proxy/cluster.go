package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"e2ee-proxy/cluster"
	"e2ee-proxy/config"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors"
	"e2ee-proxy/internal/certificate"
	"e2ee-proxy/proxy"
	"e2ee-proxy/store"
)

// lostAccounts tells the engine of accounts that another process has taken. The database is
// opened before there is one.
type lostAccounts struct{ engine atomic.Pointer[e2ee.Engine] }

func (l *lostAccounts) tell(account *store.Account) {
	if engine := l.engine.Load(); engine != nil {
		engine.Lost(account)
	}
}

// clusterOf returns what the database must know of a replica; nil for a process alone, and for a
// command that wants the database for itself: lost is nil then.
func clusterOf(cfg *config.Config, lost *lostAccounts) *store.Cluster {
	if !cfg.Cluster.On() || lost == nil {
		return nil
	}
	return &store.Cluster{Advertise: cfg.Cluster.Advertise.String(), Lost: lost.tell}
}

// replica is this process as a part of a cluster. The zero value is a process alone.
type replica struct {
	node   *cluster.Node
	pair   *certificate.Pair // nil without TLS
	server *cluster.Server
	// stop ends the listener for other replicas, and ended returns how.
	stop  func()
	ended func() error
}

// newReplica makes the part of a process that speaks with others.
func newReplica(cfg *config.Config, log zerolog.Logger, db *store.DB, engine *e2ee.Engine, metrics *cluster.Metrics) (r replica, err error) {
	if !cfg.Cluster.On() {
		return r, nil
	}
	own := interceptors.NewDevices(engine)
	o := cluster.Options{
		Advertise: cfg.Cluster.Advertise.String(), Secret: cfg.Cluster.Secret,
		Accounts: engine, Directory: db, Devices: own, UnknownToken: forgetDevice(engine), Log: log, Metrics: metrics,
	}
	if o.TLS, r.pair, err = clusterTLS(cfg.Cluster.TLS); err != nil {
		return r, err
	}
	if r.node, err = cluster.New(o); err != nil {
		return r, fmt.Errorf("cluster: %w", err)
	}
	return r, nil
}

// clusterTLS reads how replicas recognise each other by certificates; nil when they do not.
func clusterTLS(c config.ClusterTLS) (*tls.Config, *certificate.Pair, error) {
	if !c.On() {
		return nil, nil, nil
	}
	pair, err := certificate.Load(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, nil, &failure{exitConfig, fmt.Errorf("cluster.tls.cert_file: %w", err), "name a certificate and its private key, both in PEM form"}
	}
	pem, err := os.ReadFile(c.CAFile)
	roots := x509.NewCertPool()
	if err == nil && !roots.AppendCertsFromPEM(pem) {
		err = errors.New("it has no certificate")
	}
	if err != nil {
		return nil, nil, &failure{exitConfig, fmt.Errorf("cluster.tls.ca_file: %w", err), "name a file with certificates in PEM form"}
	}
	both := pair.Config()
	both.MinVersion, both.RootCAs = tls.VersionTLS13, roots
	both.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return both.GetCertificate(nil) }
	return both, pair, nil
}

// share makes the proxy's requests those of the cluster.
func (r *replica) share(o *proxy.Options) {
	if r.node == nil {
		return
	}
	o.Owners, o.Devices, o.OnUnknownToken = r.node, r.node.Devices(), r.node.UnknownToken
}

// serve makes the proxy answer what other replicas hand on.
func (r *replica) serve(front *proxy.Proxy, drain time.Duration) {
	if r.node != nil {
		r.server = r.node.Server(front, drain)
	}
}

// listen answers other replicas until stop is called, and then until what is under way has ended.
// No requests are taken yet.
func (r *replica) listen(others net.Listener) {
	r.stop, r.ended = func() {}, func() error { return nil }
	if r.node == nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ctx, others) }() // ends with stop
	r.stop, r.ended = stop, sync.OnceValue(func() error { return <-served })
}

// join finds out whether Redis can be used, and whether the replicas that live and this one
// recognise each other.
func (g *gateway) join(ctx context.Context) error {
	if err := g.checkRedis(ctx); err != nil || g.replica.node == nil {
		return err
	}
	silent, err := g.replica.node.Join(ctx)
	if errors.Is(err, cluster.ErrStranger) {
		return &failure{exitConfig, fmt.Errorf("cluster: %w", err), "give all replicas the same cluster.secret or certificates of one authority, and each a cluster.advertise of its own"}
	}
	if err != nil {
		return storeFailure(fmt.Errorf("cluster: %w", err))
	}
	for _, other := range silent {
		g.log.Warn().Str("replica", other).Msg("another replica does not answer: it may have ended without saying so, or be no longer reachable from here")
	}
	return nil
}

// listenCluster listens for other replicas; nil for a process alone.
func listenCluster(cfg *config.Config) (net.Listener, error) {
	if !cfg.Cluster.On() {
		return nil, nil
	}
	return listen("cluster.listen", cfg.Cluster.Listen)
}

// runReplica answers other replicas until the clients' requests have drained. When ctx is done all
// accounts are given away, each as soon as no request needs it.
func (g *gateway) runReplica(ctx, drained context.Context, group *errgroup.Group) {
	r := &g.replica
	if r.node == nil {
		return
	}
	r.server.Open()
	group.Go(func() error { return r.node.Run(drained) })
	group.Go(func() error {
		stopping := context.AfterFunc(drained, r.stop)
		defer stopping()
		return r.ended()
	})
	group.Go(func() error { return watchCertificate(ctx, r.pair, g.log.With().Str("of", "cluster.tls").Logger()) })
	group.Go(func() error {
		<-ctx.Done()
		r.server.Draining()
		giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.drainTimeout)
		defer cancel()
		err := g.engine.Drain(giving)
		if err != nil { // others take them when this process has ended
			g.log.Warn().Err(err).Msg("not all accounts could be given to other replicas")
			return nil
		}
		g.log.Info().Msg("all accounts are free for other replicas")
		return nil
	})
	g.log.Info().Str("advertise", g.advertise).Msg("this process is a replica")
}

var _ cluster.Accounts = (*e2ee.Engine)(nil)
