package e2ee

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
)

// Only what is used stays in memory. A device that its client has not used for
// Options.IdleAfter goes to sleep and is unloaded with the next round; its next use loads
// it again. Member lists are kept up to Options.CachedMembers users in all, the most
// recently used ones.

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
	return used.Before(since) && sc.live.unusedSince(since)
}

// unusedSince reports whether no sync of the client was in flight since a time.
func (l *liveness) unusedSince(since time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clients == 0 && l.lastSeen.Before(since)
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
	if len(gone) == 0 {
		return
	}
	for _, k := range e.inbound.Keys() {
		if _, left := gone[k.device]; left {
			e.inbound.Remove(k)
		}
	}
}

// listKey identifies the member list of a room as a device has it.
type listKey struct {
	device *Device
	room   id.RoomID
}

// memberLists tracks the member lists in memory, over all devices, by last use. A list is
// evicted a little later, by a goroutine that holds no other device's lock.
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
	// Called under l.mu only, by what changes sizes.
	l.sizes, err = lru.NewWithEvict(maxLists, func(_ listKey, size int) { l.users -= size })
	return l, err
}

// loaded records a list that was just fetched.
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

// used records that a list was used.
func (l *memberLists) used(d *Device, room id.RoomID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sizes.Get(listKey{d, room})
}

// forget removes the lists of an unloaded device.
func (l *memberLists) forget(d *Device, rooms []id.RoomID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, room := range rooms {
		l.sizes.Remove(listKey{d, room})
	}
}

// next returns the lists to evict.
func (l *memberLists) next() []listKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.out
	l.out = nil
	return out
}

// dropLists removes evicted lists from memory until ctx ends. They are fetched again when
// needed.
func (e *Engine) dropLists(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.lists.wake:
		}
		for _, key := range e.lists.next() {
			key.device.roomTable.dropList(key.room)
		}
	}
}

// dropList removes the member list of a room from memory. That does not count as somebody
// leaving.
func (rt *roomTable) dropList(room id.RoomID) {
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	if r := rt.known[room]; r != nil {
		r.members = nil
	}
}

// roomIDs returns the rooms in memory.
func (rt *roomTable) roomIDs() []id.RoomID {
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	out := make([]id.RoomID, 0, len(rt.known))
	for room := range rt.known {
		out = append(out, room)
	}
	return out
}
