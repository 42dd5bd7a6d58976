package e2ee

import (
	"context"
	"errors"
	"time"
)

const (
	// retryFirst and retryLast bound the pause before maintenance that failed is tried again.
	retryFirst = 2 * time.Second
	retryLast  = 10 * time.Minute
)

// needsPerson reports whether trying again is of no use before somebody does something.
func needsPerson(err error) bool {
	var auth *AuthNeededError
	return errors.As(err, &auth) || errors.Is(err, ErrWrongPassword)
}

// maintainAgain has maintenance run again: at once when there is more to do, after a
// growing pause when something failed.
func (d *Device) maintainAgain(failed, more bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case failed && d.token.IsZero(): // its client brings another
	case failed:
		d.retryWait = min(max(2*d.retryWait, retryFirst), retryLast)
		d.retryLocked(d.retryWait)
	case more:
		d.retryWait = 0
		d.kickLocked()
	default:
		d.retryWait = 0
	}
}

// retryLocked asks for maintenance after a pause. The caller holds d.mu.
func (d *Device) retryLocked(pause time.Duration) {
	if d.ctx == nil || d.ctx.Err() != nil {
		return
	}
	if d.retry != nil {
		d.retry.Stop()
	}
	d.retry = time.AfterFunc(pause, d.kick)
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
