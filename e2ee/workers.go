package e2ee

import (
	"context"
	"errors"
	"fmt"
	"time"

	"e2ee-proxy/e2ee/internal/core"
)

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
