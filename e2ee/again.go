package e2ee

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
)

// Backoff before what failed is tried again. All retries of the engine take their pauses
// from here.

// syncPauses are for the proxy's own syncs.
func syncPauses() backoff.Range { return backoff.Range{First: time.Second, Last: 2 * time.Minute} }

// upkeepPauses are for maintenance: uploads of keys and of the backup, and signatures that
// the homeserver does not show.
func upkeepPauses() backoff.Range {
	return backoff.Range{First: 2 * time.Second, Last: 10 * time.Minute}
}

// roundPauses are for rounds in which most visits failed because the homeserver was down.
func roundPauses() backoff.Range {
	return backoff.Range{First: 30 * time.Second, Last: 5 * time.Minute}
}

// fetchPauses are for single room keys from the backup.
func fetchPauses() backoff.Range {
	return backoff.Range{First: 30 * time.Second, Last: 5 * time.Minute}
}

func restorePauses() backoff.Range { return backoff.Range{First: time.Minute, Last: 30 * time.Minute} }

// wedgePauses are for new Olm sessions with devices that cannot be reached or have no
// one-time keys.
func wedgePauses() backoff.Range { return backoff.Range{First: time.Minute, Last: 30 * time.Minute} }

// rereadPauses are for reading back a signature that the homeserver accepted and does not
// show yet.
func rereadPauses() backoff.Range {
	return backoff.Range{First: 100 * time.Millisecond, Last: time.Second}
}

// listPauses are for member lists that are out of date.
func listPauses() backoff.Range {
	return backoff.Range{First: 50 * time.Millisecond, Last: time.Second}
}

// keylessPauses are for devices that had no one-time key left.
func keylessPauses() backoff.Range { return backoff.Range{First: 15 * time.Second, Last: time.Hour} }

// pauseAfter returns the pause after an error. It is at least the error's Retry-After.
func pauseAfter(err error, pause time.Duration, within backoff.Range) time.Duration {
	var up *wire.UpstreamError
	if errors.As(err, &up) {
		return within.AtLeast(pause, up.RetryAfter)
	}
	return pause
}

// needsPerson reports whether retrying is useless until a person does something.
func needsPerson(err error) bool {
	var auth *wire.AuthNeededError
	return errors.As(err, &auth) || errors.Is(err, core.ErrWrongPassword) || signatureFailed(err)
}

// maintainAgain schedules the next maintenance: at once when more is true, after a growing
// pause when the last one failed.
func (sc *schedule) maintainAgain(failed, more bool) {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	switch {
	case failed && sc.Record.Token.IsZero(): // the client brings a new token
	case failed:
		sc.retryLocked(retryUpkeep, sc.failures.Next(upkeepPauses()))
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
	d.ownIdentity.recheckIdentity()
	for _, step := range []func(context.Context) error{d.ownIdentity.setUpIdentity, d.reviewWarnings} {
		if err := step(ctx); err != nil {
			d.core.Env.Log.Warn().Err(err).Msg("What was asked for is done; status and warnings follow with the next upkeep")
		}
	}
}

// dropRetry removes a scheduled retry. The caller holds mu.
func (sc *schedule) dropRetry(why retryFor) { delete(sc.retry.due, why) }
