package e2ee

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

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

// pauseAfter is the pause after an error, which may say how long the homeserver wants to be
// left alone.
func pauseAfter(err error, pause time.Duration, within backoff.Range) time.Duration {
	var up *UpstreamError
	if errors.As(err, &up) {
		return within.AtLeast(pause, up.RetryAfter)
	}
	return pause
}

// needsPerson reports whether trying again is of no use before somebody does something.
func needsPerson(err error) bool {
	var auth *AuthNeededError
	return errors.As(err, &auth) || errors.Is(err, ErrWrongPassword) || signatureFailed(err)
}

// maintainAgain has maintenance run again: at once when there is more to do, after a
// growing pause when something failed.
func (d *Device) maintainAgain(failed, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case failed && d.record.token.IsZero(): // its client brings another
	case failed:
		d.retryLocked(retryUpkeep, d.schedule.failures.Next(upkeepPauses()))
	case more:
		d.schedule.failures.Reset()
		d.kickLocked()
	default:
		d.schedule.failures.Reset()
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

// retryLocked asks for maintenance after a pause. The caller holds d.mu.
func (d *Device) retryLocked(why retryFor, pause time.Duration) {
	if d.ctx == nil || d.ctx.Err() != nil {
		return
	}
	if d.schedule.retry.due == nil {
		d.schedule.retry.due = make(map[retryFor]time.Time)
	}
	d.schedule.retry.due[why] = time.Now().Add(pause)
	d.armLocked()
}

// armLocked sets the timer to what is due next. The caller holds d.mu.
func (d *Device) armLocked() {
	if d.schedule.retry.timer != nil {
		d.schedule.retry.timer.Stop()
		d.schedule.retry.timer = nil
	}
	if len(d.schedule.retry.due) > 0 {
		next := slices.MinFunc(slices.Collect(maps.Values(d.schedule.retry.due)), time.Time.Compare)
		d.schedule.retry.timer = time.AfterFunc(time.Until(next), d.retryNow)
	}
}

// retryNow asks for maintenance because something is due.
func (d *Device) retryNow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(d.schedule.retry.due, func(_ retryFor, at time.Time) bool { return !at.After(now) })
	d.armLocked()
	d.kickLocked()
}

// lookAgain brings status and warnings in line with what a call of the control API has
// just done. What fails here is tried again by the next maintenance.
func (d *Device) lookAgain(ctx context.Context) {
	d.unsettle()
	for _, step := range []func(context.Context) error{d.setUpIdentity, d.reviewWarnings} {
		if err := step(ctx); err != nil {
			d.eng.log.Warn().Err(err).Msg("How things stand could not be looked at again")
		}
	}
}
