package e2ee

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/live"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/internal/backoff"
)

// maintain does what is due for a device: it publishes keys, sends the outbox, sets the
// identity up and backs up room keys. It is safe to repeat.
func (d *Device) maintain(ctx context.Context) {
	d.core.Mu.Lock()
	d.schedule.queued, d.schedule.maintained = false, true
	d.core.Mu.Unlock()
	give, err := d.schedule.upkeep.Take(ctx, struct{}{})
	if err != nil {
		return
	}
	defer give()
	if d.core.Ended() {
		return // retired: another Device took its place
	}
	failed, more := false, false
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"upload keys", d.keySupply.Upload},
		{"replace dead keys", d.keySupply.ClaimDead},
		{"flush outbox", d.channel.FlushOutbox},
		{"check received secrets", d.backups.CheckReceived},
		{"set up identity", d.ownIdentity.SetUp},
		{"answer requests for secrets", d.gossip.AnswerSecretRequests},
		{"answer requests for room keys", d.gossip.AnswerKeyRequests},
		{"flush outbox", d.channel.FlushOutbox},
		{"back up room keys", d.backups.BackUp},
		{"restore history", d.backups.ResumeHistory},
		{"request room keys", d.gossip.RequestKeys},
		{"unwedge", d.channel.Unwedge},
		{"refresh device lists", d.refreshDeviceLists},
		{"review warnings", d.reviewWarnings},
		{"locate warnings", d.locateWarnings},
	} {
		switch err := step.do(ctx); {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, core.ErrMoreToDo):
			more = true
		case ownidentity.NeedsPerson(err):
			d.core.Env.Log.Info().Err(err).Str("step", step.name).Msg("A step of a device's upkeep waits for what its owner has to do; status tells them")
		default:
			failed = true
			d.core.Env.Log.Warn().Err(err).Str("step", step.name).Msg("A step of a device's upkeep failed; it is tried again")
		}
	}
	d.schedule.maintainAgain(failed, more)
}

// refreshDeviceLists queries users whose devices changed or could not be queried, so that
// sends need not wait for that (requirement 4.3).
func (d *Device) refreshDeviceLists(ctx context.Context) error {
	if d.core.Mode != core.ModeProxied || !d.core.IsPublished() || d.core.CurrentToken().IsZero() {
		return nil
	}
	return d.acct.Tracker.Refresh(ctx, d.core.Query())
}

// closeWithin bounds Close.
const closeWithin = 10 * time.Second

// Close stops every device's work and waits for that, until ctx ends and for 10 s at most.
// Work that is still running then was told to stop, and stores nothing once the database is
// closed.
func (e *Engine) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, closeWithin, errStillBusy)
	defer cancel()
	e.closing.Do(e.stop)
	select {
	case <-e.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop the engine: %w", context.Cause(ctx))
	}
}

// stop ends everything and closes stopped when it has ended.
func (e *Engine) stop() {
	e.cancel(core.ErrClosed)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.accounts {
		a.identity.ForgetPassword()
		e.env.WG.Go(a.Tracker.Close) // waits for its queries
	}
	go func() { e.env.WG.Wait(); close(e.stopped) }()
}

// worker maintains the devices in the queue.
func (e *Engine) worker() {
	for {
		select {
		case <-e.env.Context.Done():
			return
		case d := <-e.maintenance:
			d.maintain(e.env.Context)
		}
	}
}

// tellAlerts delivers alerts to devices. It never waits for maintenance, which waits for
// the homeserver.
func (e *Engine) tellAlerts() {
	for {
		select {
		case <-e.env.Context.Done():
			return
		case a := <-e.alerts:
			a.alerted(e.env.Context)
		}
	}
}

// errStillBusy means that work did not end in time.
var errStillBusy = errors.New("some work has not ended yet")

// schedule is when a device syncs by itself and when it is maintained.
type schedule struct {
	*core.Device
	host scheduleHost

	// live records who syncs; syncTurn lets one of the engine's own syncs run at a time,
	// and upkeep one maintenance. They have their own locks.
	live     live.View
	syncTurn locks.Turns[struct{}]
	upkeep   locks.Turns[struct{}]

	usedAt   time.Time // when a client last used the device, or it was loaded
	awake    bool      // the device syncs by itself, see awake.go
	looping  bool      // the sync loop runs
	visiting bool      // a visit is in progress: maintenance is not queued, but recorded in wanted

	queued     bool // in the engine's maintenance queue
	wanted     bool
	maintained bool // maintenance has run since the device was loaded
	retry      retries
	failures   backoff.Pauses
}

// scheduleHost is what schedule needs of the other parts.
type scheduleHost interface {
	kickLocked()
}

// maintainAgain schedules the next maintenance: at once when more is true, after a growing
// pause when the last one failed.
func (sc *schedule) maintainAgain(failed, more bool) {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	switch {
	case failed && sc.Record.Token.IsZero(): // the client brings a new token
	case failed:
		sc.retryLocked(retryUpkeep, sc.failures.Next(core.UpkeepPauses()))
	case more:
		sc.failures.Reset()
		sc.host.kickLocked()
	default:
		sc.failures.Reset()
	}
}

// retries are the scheduled retries of maintenance, by reason. They are guarded by the
// Device.
type retries struct {
	due   map[retryFor]time.Time
	timer *time.Timer
}

// retryFor is a reason to repeat maintenance. Each reason has one time.
type retryFor int

const (
	retryUpkeep retryFor = iota // a step failed
	retryRestore
	retryWedges
	retrySignature
)

// retryLocked schedules maintenance after a pause. The caller holds mu.
func (sc *schedule) retryLocked(why retryFor, pause time.Duration) {
	if sc.Ended() {
		return
	}
	if sc.retry.due == nil {
		sc.retry.due = make(map[retryFor]time.Time)
	}
	sc.retry.due[why] = time.Now().Add(pause)
	sc.armLocked()
}

// armLocked sets the timer to the next retry. The caller holds mu.
func (sc *schedule) armLocked() {
	if sc.retry.timer != nil {
		sc.retry.timer.Stop()
		sc.retry.timer = nil
	}
	if len(sc.retry.due) > 0 {
		next := slices.MinFunc(slices.Collect(maps.Values(sc.retry.due)), time.Time.Compare)
		sc.retry.timer = time.AfterFunc(time.Until(next), sc.retryNow)
	}
}

// retryNow requests maintenance for the retries whose time has come.
func (sc *schedule) retryNow() {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(sc.retry.due, func(_ retryFor, at time.Time) bool { return !at.After(now) })
	sc.armLocked()
	sc.host.kickLocked()
}

// recheckNow updates status and warnings after a call of the control API. If it fails, the
// next maintenance does it.
func (d *Device) recheckNow(ctx context.Context) {
	d.ownIdentity.Recheck()
	for _, step := range []func(context.Context) error{d.ownIdentity.SetUp, d.reviewWarnings} {
		if err := step(ctx); err != nil {
			d.core.Env.Log.Warn().Err(err).Msg("What was asked for is done; status and warnings follow with the next upkeep")
		}
	}
}

// RetrySignature schedules maintenance for the device's signature. The caller holds mu.
func (sc *schedule) RetrySignature(pause time.Duration) { sc.retryLocked(retrySignature, pause) }

// DropSignatureRetry takes that back. The caller holds mu.
func (sc *schedule) DropSignatureRetry() { delete(sc.retry.due, retrySignature) }

// RetryRestore schedules maintenance for a restore. The caller holds mu.
func (sc *schedule) RetryRestore(pause time.Duration) { sc.retryLocked(retryRestore, pause) }
