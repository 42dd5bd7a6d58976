package e2ee

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/backoff"
)

// How long what failed waits before it is tried again. Whoever adds another try adds it here.

// syncPauses are for the proxy's own syncs.
func syncPauses() backoff.Range { return backoff.Range{First: time.Second, Last: 2 * time.Minute} }

// upkeepPauses are for maintenance, with it for the upload of keys and of room keys to the
// backup, and for signatures that do not show.
func upkeepPauses() backoff.Range {
	return backoff.Range{First: 2 * time.Second, Last: 10 * time.Minute}
}

// roundPauses are for rounds in which most devices could not be visited: the homeserver
// was down.
func roundPauses() backoff.Range {
	return backoff.Range{First: 30 * time.Second, Last: 5 * time.Minute}
}

// fetchPauses are for room keys from the backup, one by one, restorePauses for all of it.
func fetchPauses() backoff.Range {
	return backoff.Range{First: 30 * time.Second, Last: 5 * time.Minute}
}

func restorePauses() backoff.Range { return backoff.Range{First: time.Minute, Last: 30 * time.Minute} }

// wedgePauses are for new Olm sessions with who cannot be reached, or has no keys left.
func wedgePauses() backoff.Range { return backoff.Range{First: time.Minute, Last: 30 * time.Minute} }

// rereadPauses are for a signature that was accepted and does not show at once.
func rereadPauses() backoff.Range {
	return backoff.Range{First: 100 * time.Millisecond, Last: time.Second}
}

// listPauses are for a list of members that is out of date.
func listPauses() backoff.Range {
	return backoff.Range{First: 50 * time.Millisecond, Last: time.Second}
}

// keylessPauses are for devices that had no one-time key left.
func keylessPauses() backoff.Range { return backoff.Range{First: 15 * time.Second, Last: time.Hour} }

// pauseAfter returns the pause after an error, which may say how long the homeserver wants
// to be left alone.
func pauseAfter(err error, pause time.Duration, within backoff.Range) time.Duration {
	var up *wire.UpstreamError
	if errors.As(err, &up) {
		return within.AtLeast(pause, up.RetryAfter)
	}
	return pause
}

// needsPerson reports whether trying again is of no use before somebody does something.
func needsPerson(err error) bool {
	var auth *wire.AuthNeededError
	return errors.As(err, &auth) || errors.Is(err, ErrWrongPassword) || signatureFailed(err)
}

// maintainAgain has maintenance run again: at once when there is more to do, after a
// growing pause when something failed.
func (sc *schedule) maintainAgain(failed, more bool) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	switch {
	case failed && sc.record.token.IsZero(): // its client brings another
	case failed:
		sc.retryLocked(retryUpkeep, sc.failures.Next(upkeepPauses()))
	case more:
		sc.failures.Reset()
		sc.host.kickLocked()
	default:
		sc.failures.Reset()
	}
}

// retries are when maintenance is asked for again, and why. It is guarded by the Device.
type retries struct {
	due   map[retryFor]time.Time
	timer *time.Timer
}

// retryFor is a reason for maintenance to be repeated. Each has one time.
type retryFor int

const (
	retryUpkeep retryFor = iota // a step failed
	retryRestore
	retryWedges
	retrySignature
)

// retryLocked asks for maintenance after a pause. The caller holds mu.
func (sc *schedule) retryLocked(why retryFor, pause time.Duration) {
	if sc.ctx == nil || sc.ctx.Err() != nil {
		return
	}
	if sc.retry.due == nil {
		sc.retry.due = make(map[retryFor]time.Time)
	}
	sc.retry.due[why] = time.Now().Add(pause)
	sc.armLocked()
}

// armLocked sets the timer to what is due next. The caller holds mu.
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

// retryNow asks for maintenance because something is due.
func (sc *schedule) retryNow() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(sc.retry.due, func(_ retryFor, at time.Time) bool { return !at.After(now) })
	sc.armLocked()
	sc.host.kickLocked()
}

// recheckNow brings status and warnings in line with what a call of the control API has
// just done. What fails here is tried again by the next maintenance.
func (d *Device) recheckNow(ctx context.Context) {
	d.recheckIdentity()
	for _, step := range []func(context.Context) error{d.setUpIdentity, d.reviewWarnings} {
		if err := step(ctx); err != nil {
			d.eng.log.Warn().Err(err).Msg("What was asked for is done; status and warnings follow with the next upkeep")
		}
	}
}

// dropRetry forgets what was to be tried again. The caller holds mu.
func (sc *schedule) dropRetry(why retryFor) { delete(sc.retry.due, why) }
