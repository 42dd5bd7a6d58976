package schedule

import (
	"maps"
	"slices"
	"time"

	"e2ee-proxy/e2ee/internal/core"
)

// KickLocked requests maintenance. The caller holds mu.
func (sc *Schedule) KickLocked() {
	sc.wanted = true
	if sc.visiting || sc.queued || sc.Ended() {
		return
	}
	sc.queued = sc.host.Enqueue() // if the queue is full, the sync loop kicks again
}

// UpkeepBegins records that maintenance runs: it is not queued any more.
func (sc *Schedule) UpkeepBegins() {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	sc.queued, sc.maintained = false, true
}

// UpkeepEnds schedules the next maintenance: at once when more is true, after a growing
// pause when the last one failed.
func (sc *Schedule) UpkeepEnds(failed, more bool) {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	switch {
	case failed && sc.Record.Token.IsZero(): // the client brings a new token
	case failed:
		sc.retryLater(retryUpkeep, sc.failures.Next(core.UpkeepPauses()))
	case more:
		sc.failures.Reset()
		sc.KickLocked()
	default:
		sc.failures.Reset()
	}
}

// retries are the scheduled retries of maintenance, by reason. They are guarded by the
// device's lock.
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

// RetrySignature schedules maintenance for the device's signature. The caller holds mu.
func (sc *Schedule) RetrySignature(pause time.Duration) { sc.retryLater(retrySignature, pause) }

// DropSignatureRetry takes that back. The caller holds mu.
func (sc *Schedule) DropSignatureRetry() { delete(sc.retry.due, retrySignature) }

// RetryRestore schedules maintenance for a restore. The caller holds mu.
func (sc *Schedule) RetryRestore(pause time.Duration) { sc.retryLater(retryRestore, pause) }

// RetryWedges schedules maintenance for new Olm sessions in place of broken ones. The caller
// holds mu.
func (sc *Schedule) RetryWedges(pause time.Duration) { sc.retryLater(retryWedges, pause) }

// retryLater schedules maintenance after a pause. The caller holds mu.
func (sc *Schedule) retryLater(why retryFor, pause time.Duration) {
	if sc.Ended() {
		return
	}
	if sc.retry.due == nil {
		sc.retry.due = make(map[retryFor]time.Time)
	}
	sc.retry.due[why] = time.Now().Add(pause)
	sc.setTimer()
}

// setTimer sets the timer to the next retry. The caller holds mu.
func (sc *Schedule) setTimer() {
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
func (sc *Schedule) retryNow() {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(sc.retry.due, func(_ retryFor, at time.Time) bool { return !at.After(now) })
	sc.setTimer()
	sc.KickLocked()
}

// Stop ends what waits to be tried again. The caller holds mu.
func (sc *Schedule) Stop() {
	if sc.retry.timer != nil {
		sc.retry.timer.Stop()
	}
}
