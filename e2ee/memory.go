package e2ee

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
)

// What the process keeps in memory is bounded by what is used. A device that its client has
// not used for Options.IdleAfter goes to sleep, and leaves memory with the next round, as
// one does that no client ever used; its next use loads it. The lists of rooms' members are
// kept up to Options.CachedMembers users in all, those that were used last.

// inUse records that a client uses the device.
func (sc *schedule) inUse() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.usedAt = sc.eng.now()
}

// unused reports whether no client has used the device since a time, and none syncs now.
func (sc *schedule) unused(since time.Time) bool {
	sc.mu.Lock()
	used := sc.usedAt
	sc.mu.Unlock()
	return used.Before(since) && sc.live.unusedSince(since)
}

// unusedSince reports whether no sync of the client was in flight since a time.
func (l *liveness) unusedSince(since time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clients == 0 && l.lastSeen.Before(since)
}

// putToSleep has devices fall asleep that no client uses any more, so that the rounds take
// them out of memory.
func (e *Engine) putToSleep() {
	since := e.now().Add(-e.opts.IdleAfter)
	e.mu.Lock()
	var idle []*Device
	for key, d := range e.devices {
		switch {
		case !d.unused(since):
		case d.mode == ModeProxied:
			d.hasClient = false
			idle = append(idle, d)
		default: // no round visits it, and nothing of it is in memory only
			delete(e.devices, key)
			e.recordUnloaded(d)
		}
	}
	e.mu.Unlock()
	for _, d := range idle {
		e.awake.Remove(d) // which has it fall asleep
	}
}

// recordUnloaded notes a device that was taken out of memory. The caller holds e.mu.
func (e *Engine) recordUnloaded(d *Device) {
	// A request that has used it since before IdleAfter stores nothing, and gives nothing
	// out: there may be another Device of it by then.
	d.mustReload.Store(true)
	if e.gone == nil {
		e.gone = make(map[int64]struct{})
	}
	e.gone[d.rowID] = struct{}{}
}

// forgetUnloaded takes out of memory what was kept of devices that left it.
func (e *Engine) forgetUnloaded() {
	e.mu.Lock()
	gone := e.gone
	e.gone = nil
	for _, d := range e.devices {
		delete(gone, d.rowID) // it came back
	}
	e.mu.Unlock()
	if len(gone) == 0 {
		return
	}
	for _, k := range e.inbound.Keys() {
		if _, left := gone[k.device]; left {
			e.inbound.Remove(k)
		}
	}
}

// listKey names the member list of a room as a device has it.
type listKey struct {
	device *Device
	room   id.RoomID
}

// memberLists are the lists of members in memory, over all devices, by when they were used
// last. A list that has to go is dropped a little later, by a goroutine that holds no
// other device's lock.
type memberLists struct {
	most int // users in all of them

	mu    locks.Mutex
	sizes *lru.Cache[listKey, int]
	users int
	out   []listKey
	wake  chan struct{}
}

// maxLists bounds the lists, however small they are.
const maxLists = 1 << 20

func newMemberLists(most int) (*memberLists, error) {
	l := &memberLists{most: most, wake: make(chan struct{}, 1)}
	var err error
	// Only called under l.mu, by what changes sizes.
	l.sizes, err = lru.NewWithEvict(maxLists, func(_ listKey, size int) { l.users -= size })
	return l, err
}

// loaded notes a list that was just fetched.
func (l *memberLists) loaded(d *Device, room id.RoomID, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := listKey{d, room}
	l.sizes.Remove(key)
	for l.sizes.Len() > 0 && (l.users+size > l.most || l.sizes.Len() >= maxLists) {
		oldest, _, _ := l.sizes.RemoveOldest()
		l.out = append(l.out, oldest)
	}
	l.sizes.Add(key, size)
	l.users += size
	if len(l.out) > 0 {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// used notes that a list was used.
func (l *memberLists) used(d *Device, room id.RoomID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sizes.Get(listKey{d, room})
}

// forget drops the lists of a device that leaves memory.
func (l *memberLists) forget(d *Device, rooms []id.RoomID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, room := range rooms {
		l.sizes.Remove(listKey{d, room})
	}
}

// next returns the lists that have to go.
func (l *memberLists) next() []listKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.out
	l.out = nil
	return out
}

// dropLists takes lists out of memory until ctx ends. They are fetched again when needed.
func (e *Engine) dropLists(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.lists.wake:
		}
		for _, key := range e.lists.next() {
			key.device.dropList(key.room)
		}
	}
}

// dropList takes the list of a room out of memory. Nobody has left the room by that.
func (rt *roomTable) dropList(room id.RoomID) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if r := rt.known[room]; r != nil {
		r.members = nil
	}
}

// roomIDs returns the rooms that a device has in memory.
func (rt *roomTable) roomIDs() []id.RoomID {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	out := make([]id.RoomID, 0, len(rt.known))
	for room := range rt.known {
		out = append(out, room)
	}
	return out
}
