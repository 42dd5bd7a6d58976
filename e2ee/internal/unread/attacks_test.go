package unread

import (
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"
)

// Attack vector: anybody in a room names the roots of threads, in messages of up to 64 kB, and the
// homeserver names them beside its numbers. They are in memory for each account in the room, and
// stored with each change of the room.
//
// Expected: what is longer than an event's ID can be is no thread of its own.
func TestRootsOfThreadsAreShort(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	long := func(i int) id.EventID { return id.EventID(fmt.Sprintf("$%d%s", i, strings.Repeat("x", 60_000))) }
	u := &Room{RoomID: room, Counts: &Counts{}, Relations: map[int]Relation{}, Threads: map[id.EventID]Counts{}}
	for i := range 2 * maxThreads {
		u.Timeline = append(u.Timeline, sent(uint32(i+1)))
		u.Relations[i] = Relation{Root: long(i)}
		u.Threads[long(-i-1)] = Counts{1, 0}
		u.Receipts = append(u.Receipts, Receipt{Event: "$r", Thread: string(long(1000 + i))})
	}
	s.l.take(u, now)
	size := 0
	for _, root := range s.l.Threads {
		size += len(root)
	}
	if size > maxThreads*256 {
		t.Errorf("%d bytes of roots are kept", size)
	}
	// A thread with a root that can be is told apart all the same.
	s.l.take(&Room{RoomID: room, Timeline: []Event{sent(500)}, Relations: map[int]Relation{0: {Root: "$root"}}}, now)
	if i := s.l.thread("$root"); i == 0 || s.l.Entries[len(s.l.Entries)-1].Thread != uint8(i) {
		t.Error("the thread is not told apart")
	}
}
