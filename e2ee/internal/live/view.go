package live

import (
	"context"
	"errors"
	"time"

	"e2ee-proxy/e2ee/internal/locks"
)

// View records how current a device's view of the homeserver is: which syncs wait at
// the homeserver, the proxy's own or the client's, and when the last response was stored.
type View struct {
	mu       locks.Mutex
	polls    int           // syncs in flight
	began    time.Time     // when the last of them began
	clients  int           // the client's among them
	catching int           // callers closing a gap; meanwhile no own poll begins
	lastDone time.Time     // when the last response was stored
	lastSeen time.Time     // when the client last synced
	stopOwn  func()        // cancels the own poll in flight
	changed  chan struct{} // closed when clients or catching changes
}

// freshFor is how long the view counts as current after a response was stored, with no sync
// in flight.
const freshFor = 500 * time.Millisecond

// emptyAfter is how long a sync must have waited at the homeserver before it counts as
// proof that nothing was waiting for it.
const emptyAfter = 300 * time.Millisecond

// Current reports whether changes would have arrived by now.
func (l *View) Current(now time.Time) bool {
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

// Stored records that a response was processed and stored.
func (l *View) Stored(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastDone = now
}

// ClientBegins records that a client sync begins, and stops the own poll: the homeserver
// must not carry two.
func (l *View) ClientBegins(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.polls++
	l.clients++
	l.lastSeen, l.began = now, now
	l.endOwn()
	l.wake()
}

// CatchBegins and catchEnds enclose the closing of a gap: the own poll in flight is
// cancelled and none begins, so that nobody waits for it.
func (l *View) CatchBegins() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catching++
	l.endOwn()
}

// CatchEnds ends what CatchBegins began.
func (l *View) CatchEnds() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catching--
	l.wake()
}

// Interrupt cancels the own poll in flight.
func (l *View) Interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endOwn()
}

// ClientSyncs reports whether a sync of the client is in flight.
func (l *View) ClientSyncs() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clients > 0
}

// endOwn cancels the own poll in flight. The caller holds l.mu.
func (l *View) endOwn() {
	if l.stopOwn != nil {
		l.stopOwn()
		l.stopOwn = nil
	}
}

// ClientEnds records that a client sync has ended.
func (l *View) ClientEnds(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.polls--
	l.clients--
	l.lastSeen = now
	l.wake()
}

func (l *View) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// OwnBegins registers an own poll. It is refused while a client syncs or a gap is closed.
func (l *View) OwnBegins(now time.Time, cancel func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients > 0 || l.catching > 0 {
		return false
	}
	l.polls++
	l.began, l.stopOwn = now, cancel
	return true
}

// OwnEnds records that the own poll has ended.
func (l *View) OwnEnds() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.polls--
	l.stopOwn = nil
}

// AwaitQuiet waits until no client has synced for the given time and no gap is being
// closed. It returns ErrClientSyncs at once while a client syncs.
func (l *View) AwaitQuiet(ctx context.Context, now func() time.Time, after time.Duration) error {
	for {
		l.mu.Lock()
		wait := after - now().Sub(l.lastSeen)
		busy := l.catching > 0
		if l.clients > 0 {
			l.mu.Unlock()
			return ErrClientSyncs
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

// UnusedSince reports whether no sync of the client was in flight since a time.
func (l *View) UnusedSince(since time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clients == 0 && l.lastSeen.Before(since)
}

// ErrClientSyncs means that a client's sync took over, or that the device fell asleep.
var ErrClientSyncs = errors.New("the client syncs")

// New returns the view of a device that has not synced. order is nil but in tests.
func New(order *locks.Order) View {
	return View{mu: locks.Mutex{Place: order.At(locks.RankLeaf)}}
}
