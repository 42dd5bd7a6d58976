package e2ee

import (
	"context"
	"time"

	"e2ee-proxy/e2ee/internal/locks"
)

// liveness tells how current a device's view of the homeserver is: whether a sync is
// waiting at the homeserver now, the proxy's own or the client's, and when the last
// response was stored.
type liveness struct {
	mu       locks.Mutex
	polls    int           // syncs in flight
	began    time.Time     // when the last of them began
	clients  int           // of which the client's
	catching int           // callers that close a gap now; no own poll stands in their way
	lastDone time.Time     // when the last response was stored
	lastSeen time.Time     // when the client last synced
	stopOwn  func()        // cancels the own poll in flight
	changed  chan struct{} // closed when clients or catching changes
}

// freshFor is how long after a stored response, with no sync in flight, the view
// still counts as current.
const freshFor = 500 * time.Millisecond

// emptyAfter is how long a sync must have waited at the homeserver to tell that there was
// nothing for it when it began.
const emptyAfter = 300 * time.Millisecond

// current reports whether changes would have reached us by now.
func (l *liveness) current(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.lastDone.IsZero():
		return false
	case now.Sub(l.lastDone) < freshFor:
		return true
	case l.polls == 0:
		return false
	default:
		return l.began.Sub(l.lastDone) < freshFor || now.Sub(l.began) >= emptyAfter
	}
}

// stored records that a response was processed and stored.
func (l *liveness) stored(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastDone = now
}

// clientBegins stops the own poll: the homeserver must not carry two.
func (l *liveness) clientBegins(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.polls++
	l.clients++
	l.lastSeen, l.began = now, now
	l.endOwn()
	l.wake()
}

// catchBegins and catchEnds enclose the closing of a gap: the own poll in flight ends, and
// none begins, so that nobody waits for one.
func (l *liveness) catchBegins() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catching++
	l.endOwn()
}

func (l *liveness) catchEnds() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catching--
	l.wake()
}

// interrupt ends the own poll in flight.
func (l *liveness) interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endOwn()
}

// clientSyncs reports whether a sync of the client is in flight.
func (l *liveness) clientSyncs() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clients > 0
}

// endOwn cancels the own poll in flight. The caller holds l.mu.
func (l *liveness) endOwn() {
	if l.stopOwn != nil {
		l.stopOwn()
		l.stopOwn = nil
	}
}

func (l *liveness) clientEnds(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.polls--
	l.clients--
	l.lastSeen = now
	l.wake()
}

func (l *liveness) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// ownBegins registers an own poll. It is refused while a client syncs or a gap is closed.
func (l *liveness) ownBegins(now time.Time, cancel func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients > 0 || l.catching > 0 {
		return false
	}
	l.polls++
	l.began, l.stopOwn = now, cancel
	return true
}

func (l *liveness) ownEnds() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.polls--
	l.stopOwn = nil
}

// awaitQuiet waits until no client has synced for the given time and no gap is being closed. It
// gives errClientSyncs at once while a client syncs.
func (l *liveness) awaitQuiet(ctx context.Context, now func() time.Time, after time.Duration) error {
	for {
		l.mu.Lock()
		wait := after - now().Sub(l.lastSeen)
		busy := l.catching > 0
		if l.clients > 0 {
			l.mu.Unlock()
			return errClientSyncs
		}
		if !busy && (l.lastSeen.IsZero() || wait <= 0) {
			l.mu.Unlock()
			return nil
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		var timer <-chan time.Time
		if !busy {
			t := time.NewTimer(wait)
			defer t.Stop()
			timer = t.C
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		case <-timer:
		}
	}
}
