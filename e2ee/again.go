package e2ee

import (
	"context"
	"maps"
	"slices"
	"time"

	"e2ee-proxy/e2ee/internal/core"
)

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
