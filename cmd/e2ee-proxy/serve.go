package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/sdnotify"
	"e2ee-proxy/store"
)

// closeWait is how long the engine may take to finish its work at the end.
const closeWait = 10 * time.Second

// serve runs the proxy until SIGINT or SIGTERM, and then until what is under way has
// finished. A second signal ends the process at once. SIGHUP reloads settings.
func serve(p *process, c command, args []string) error {
	var s settings
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	s.register(fs)
	if done, err := p.parse(c, fs, args); done || err != nil {
		return err
	}
	cfg, err := s.load(p)
	if err != nil {
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	signalled, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, end := context.WithCancel(context.Background())
	defer end()
	context.AfterFunc(signalled, func() {
		stop() // at once, so that the next signal has its default effect
		end()
	})
	level := new(logLevel)
	return runProxy(ctx, cfg, newLogger(p.stderr, cfg.Log, level), outside{
		hup: hup, load: func() (*config.Config, error) { return s.load(p) }, level: level, manager: sdnotify.FromEnviron(p.environ),
	})
}

// runProxy wires the parts, runs them until ctx is done, and closes them in the opposite
// order. Listening comes before the engine starts, so that a second process fails before it
// has done anything.
func runProxy(ctx context.Context, cfg *config.Config, log zerolog.Logger, around outside) (err error) {
	lost := new(lostAccounts)
	db, err := openStore(ctx, cfg, log, lost)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := beginAudit(ctx, cfg, db); err != nil {
		return err
	}
	defer endAudit(context.WithoutCancel(ctx), db, log)

	registry, err := newRegistry()
	if err != nil {
		return err
	}
	g, err := wire(cfg, log, db, registry)
	if err != nil {
		return err
	}
	g.outside = around
	lost.engine.Store(g.engine)
	defer func() { err = errors.Join(err, g.files.Close(), g.redis.Close()) }()
	at, err := listenAll(cfg, log)
	defer func() { err = errors.Join(err, at.Close()) }()
	if err != nil {
		return err
	}
	g.replica.listen(at.replicas)
	defer func() {
		g.replica.stop()
		if ended := g.replica.ended(); err == nil {
			err = ended
		}
	}()
	if err := g.join(ctx); err != nil {
		return err
	}

	if err := g.engine.Start(ctx); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, g.stop(ctx))
		log.Info().Msg("stopped")
	}()
	return g.serve(ctx, at)
}

// stop ends what goes on after the last request, and the engine.
func (g *gateway) stop(ctx context.Context) error {
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
	defer cancel()
	g.work.Close()
	return g.engine.Close(closing)
}

// serve answers on all listeners until ctx is done or one of them fails. The clients' is closed
// first.
func (g *gateway) serve(ctx context.Context, at listeners) error {
	defer g.proxy.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		g.ready.Drain()
		g.tell(g.outside.manager.Stopping())
		g.log.Info().Msg("draining: requests under way are finished, no new ones are taken")
		return nil
	})
	drained, done := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		defer done()
		return g.proxy.Serve(ctx, at.clients)
	})
	opsAddress := ""
	if at.operators != nil {
		opsAddress = at.operators.Addr().String()
		group.Go(func() error { return serveOps(drained, at.operators, g.ops) })
	}
	if at.console != nil {
		group.Go(func() error { return g.proxy.ServeConsole(ctx, at.console) })
	}
	if at.local != nil {
		group.Go(func() error { return g.proxy.ServeLocal(ctx, at.local) })
	}
	g.runReplica(ctx, drained, group)
	group.Go(func() error { return g.redis.Run(drained) })
	group.Go(func() error { return housekeeping(ctx, g.db, g.log, g.auditKeep) })
	group.Go(func() error { return watchLease(ctx, g.db) })
	group.Go(func() error { return watchCertificate(ctx, g.pair, g.log) })
	g.log.Info().Str("listen", at.clients.Addr().String()).Str("ops_listen", opsAddress).Str("homeserver", g.homeserver).Str("version", build().version).Msg("listening")
	group.Go(func() error { return g.reloads(ctx) })
	group.Go(func() error { return g.tellManager(ctx, drained) })
	return group.Wait()
}

// watchLease returns an error when the process may not write to the database any more.
func watchLease(ctx context.Context, db *store.DB) error {
	select {
	case <-ctx.Done():
		return nil
	case <-db.LeaseLost():
		return storeFailure(db.Lease())
	}
}
