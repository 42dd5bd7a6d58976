package rooms

import (
	"context"

	lru "github.com/hashicorp/golang-lru/v2"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
)

// Member lists are kept up to a number of users in all, the most recently used ones.

// listKey identifies the member list of a room as a device has it.
type listKey struct {
	table *Table
	room  id.RoomID
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
func (l *memberLists) loaded(rt *Table, room id.RoomID, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := listKey{rt, room}
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
func (l *memberLists) used(rt *Table, room id.RoomID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sizes.Get(listKey{rt, room})
}

// forget removes the lists of an unloaded device.
func (l *memberLists) forget(rt *Table, rooms []id.RoomID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, room := range rooms {
		l.sizes.Remove(listKey{rt, room})
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

// DropLists removes evicted lists from memory until ctx ends. They are fetched again when
// needed.
func (sh *Shared) DropLists(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-sh.lists.wake:
		}
		for _, key := range sh.lists.next() {
			key.table.dropList(key.room)
		}
	}
}

// dropList removes the member list of a room from memory. That does not count as somebody
// leaving.
func (rt *Table) dropList(room id.RoomID) {
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	if r := rt.known[room]; r != nil {
		r.members = nil
	}
}

// Release removes the member lists of a device that is being unloaded.
func (rt *Table) Release() {
	rt.Mu.Lock()
	rooms := make([]id.RoomID, 0, len(rt.known))
	for room := range rt.known {
		rooms = append(rooms, room)
	}
	rt.Mu.Unlock()
	rt.shared.lists.forget(rt, rooms)
}
