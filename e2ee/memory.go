package e2ee

import (
	"time"

	"e2ee-proxy/e2ee/internal/core"
)

// Only what is used stays in memory. A device that its client has not used for
// Options.IdleAfter goes to sleep and is unloaded with the next round; its next use loads
// it again.

// inUse records that a client uses the device.
func (sc *schedule) inUse() {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	sc.usedAt = sc.Env.Now()
}

// unused reports whether no client has used the device since a time, and none syncs now.
func (sc *schedule) unused(since time.Time) bool {
	sc.Mu.Lock()
	used := sc.usedAt
	sc.Mu.Unlock()
	return used.Before(since) && sc.live.UnusedSince(since)
}

// putToSleep makes devices fall asleep that no client uses any more, so that the rounds
// unload them.
func (e *Engine) putToSleep() {
	since := e.env.Now().Add(-e.opts.IdleAfter)
	e.mu.Lock()
	var idle []*Device
	for key, d := range e.devices {
		switch {
		case !d.schedule.unused(since):
		case d.core.Mode == core.ModeProxied:
			d.hasClient = false
			idle = append(idle, d)
		default: // no round visits it, and all of it is stored
			delete(e.devices, key)
			e.recordUnloaded(d)
		}
	}
	e.mu.Unlock()
	for _, d := range idle {
		e.awake.Remove(d) // its eviction makes it fall asleep
	}
}

// recordUnloaded records a device that was removed from memory. The caller holds e.mu.
func (e *Engine) recordUnloaded(d *Device) {
	// A request that has used this Device for longer than IdleAfter stores nothing and
	// returns nothing: another Device may exist by then.
	d.core.MustReload.Store(true)
	if e.gone == nil {
		e.gone = make(map[int64]struct{})
	}
	e.gone[d.core.RowID] = struct{}{}
}

// forgetUnloaded removes cache entries of unloaded devices.
func (e *Engine) forgetUnloaded() {
	e.mu.Lock()
	gone := e.gone
	e.gone = nil
	for _, d := range e.devices {
		delete(gone, d.core.RowID) // it was loaded again
	}
	e.mu.Unlock()
	if len(gone) > 0 {
		e.inbound.Forget(gone)
	}
}
