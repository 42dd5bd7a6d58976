package main

import (
	"context"
	"os"
	"slices"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/sdnotify"
)

// outside is what the process has to do with who runs it. The zero value has nothing.
type outside struct {
	hup     <-chan os.Signal               // asks for a reload
	load    func() (*config.Config, error) // reads the configuration as at the start
	level   *logLevel
	manager sdnotify.Notifier
}

// reloadable returns the settings that are taken over without a restart: those that are asked
// for each time. policy.receive, policy.unproven and policy.bridges are not among them: what
// was held back under other rules is judged again at a start only.
func reloadable() []string {
	return []string{
		"log.level",
		"policy.send.mode", "policy.send.enforce_from", "policy.native.mode", "policy.native.enforce_from",
		"policy.native_identity_changes", "policy.plain_in_encrypted", "policy.withheld", "policy.control_room",
		"policy.groups", "policy.rules", "policy.trial_rules", "policy.cedar_file", "policy.trial_cedar_file",
		"policy.decision_point.url", "policy.decision_point.timeout", "policy.decision_point.ca_file", "policy.decision_point.token",
		"policy.decision_point.on_error", "policy.decision_point.cache",
		"account.require_cross_signing", "account.secret_requests", "accounts",
		"clients.hide_warnings", "media.links", "administrators", "ops_token",
	}
}

// reloads reads the configuration again whenever it is asked to, until ctx is done.
func (g *gateway) reloads(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.outside.hup:
			g.tell(g.outside.manager.Reloading())
			g.reload(ctx)
			g.tell(g.outside.manager.Ready("reloaded"))
		}
	}
}

// reload takes over what can be, and says what cannot. A configuration with problems changes
// nothing, and neither does a policy that the audit log cannot be told of.
func (g *gateway) reload(ctx context.Context) {
	next, err := g.outside.load()
	if err != nil {
		g.log.Error().Err(err).Msg("the configuration has problems: everything stays as it was")
		return
	}
	was := g.inForce.Load()
	taken, left := []string{}, []string{}
	for _, name := range config.Changed(was, next) {
		if slices.Contains(reloadable(), name) {
			taken = append(taken, name)
		} else {
			left = append(left, name)
		}
	}
	now := was.With(next, taken)
	ruled, err := rulesIn(now)
	if err != nil { // they were checked when the settings were read
		g.log.Error().Err(err).Msg("the organisation's rules have problems: everything stays as it was")
		return
	}
	if err := auditPolicy(ctx, now, g.db); err != nil {
		g.log.Error().Err(err).Msg("the audit log was not told of the new policy: everything stays as it was")
		return
	}
	g.inForce.Store(now)
	if err := g.engine.SetRules(ctx, ruled, policyVersion(now)); err != nil {
		g.log.Error().Err(err).Msg("messages that were held back are not judged by the new policy before the next start")
	}
	g.outside.level.set(next.Log.Level)
	if g.pair != nil {
		sayCertificate(g.pair, g.log, g.pair.Reload())
	}
	g.log.Info().Strs("settings", taken).Msg("reloaded: these settings have changed")
	if len(left) > 0 {
		g.log.Warn().Strs("settings", left).Msg("these settings have changed too, and need a restart")
	}
}

// tellManager tells the service manager how the process is, until it has drained.
func (g *gateway) tellManager(ctx, drained context.Context) error {
	g.tell(g.outside.manager.Ready("waiting for the homeserver"))
	alive := make(chan struct{})
	go func() { // ends with drained
		defer close(alive)
		g.outside.manager.Alive(drained, g.tell)
	}()
	err := logWhenReady(ctx, g.ready, g.log.Info())
	if ctx.Err() == nil {
		g.tell(g.outside.manager.Status("serving"))
	}
	<-alive
	return err
}

// tell logs that the service manager could not be told something. It goes on without.
func (g *gateway) tell(err error) {
	if err != nil {
		g.log.Warn().Err(err).Msg("the service manager was not told how the proxy is")
	}
}
