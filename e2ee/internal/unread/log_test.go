package unread

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"
)

// now is when the events of these tests are seen, in seconds; they are sent at their number.
var now = time.Unix(10_000, 0)

// script is a room's log, driven by a test.
type script struct {
	t *testing.T
	l *log
}

func newScript(t *testing.T) *script {
	t.Helper()
	return &script{t, &log{room: room}}
}

// sent returns an encrypted event that was sent at a time.
func sent(n uint32) Event { return Event{Ref: RefOf(nameOf(n)), At: n, Sealed: true} }

func nameOf(n uint32) id.EventID { return id.EventID(fmt.Sprintf("$%d", n)) }

// sync gives the log events, and the homeserver's number of notifications.
func (s *script) sync(server int, events ...Event) {
	s.t.Helper()
	s.l.take(&Room{RoomID: room, Timeline: events, Counts: &Counts{Notifications: server}}, now)
}

func (s *script) receipt(n uint32, thread string, at int64) {
	s.l.take(&Room{RoomID: room, Receipts: []Receipt{{Event: nameOf(n), Thread: thread, Timestamp: at * 1000}}}, now)
}

// decide says what the rules say of an event: of ciphertext that it notifies.
func (s *script) decide(n uint32, clear Outcome) { s.l.decide(RefOf(nameOf(n)), notifies, &clear) }

// want compares the numbers of notifications and highlights of everything.
func (s *script) want(what string, notifications, highlights int) {
	s.t.Helper()
	all, _ := s.l.counted(s.l.Counts, false)
	if got := all[0]; got != (Counts{notifications, highlights}) {
		s.t.Errorf("%s: %+v, want %d and %d", what, got, notifications, highlights)
	}
}

// restart stores the log and reads it again.
func (s *script) restart() {
	s.t.Helper()
	kept := s.l.kept()
	s.l = &log{room: room}
	if kept == nil {
		return
	}
	raw, err := json.Marshal(kept)
	if err == nil {
		err = json.Unmarshal(raw, &s.l.state)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.l.gap = len(s.l.Entries)
}

func TestMentionRaisesTheHighlight(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.sync(2, sent(1), sent(2))
	s.want("nothing is decided", 2, 0)
	s.decide(1, notifies)
	s.decide(2, highlight)
	s.decide(2, highlight)
	s.want("a mention, decided twice", 2, 1)
	s.sync(2, sent(1), sent(2))
	s.want("another device sees the same", 2, 1)
	s.restart()
	s.want("after a restart", 2, 1)
	s.sync(3, sent(3))
	s.receipt(1, "", 20)
	s.want("a receipt for what was before", 3, 1)
	s.receipt(2, "", 21)
	s.sync(1)
	s.want("a receipt for it", 1, 0)
	if s.l.kept() == nil {
		t.Error("an event that is not decided is forgotten")
	}
	s.decide(3, notifies)
	if s.l.kept() != nil {
		t.Error("something is kept where the homeserver is right")
	}
}

func TestEditsAndReactionsAreTakenOff(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.sync(3, sent(1), sent(2), sent(3))
	s.decide(1, notifies)
	s.decide(2, nothing)
	s.decide(3, nothing)
	s.want("of three events one is a message", 1, 0)
	s.restart()
	s.want("after a restart", 1, 0)
	s.sync(0)
	s.want("never below zero", 0, 0)
}

// A room in which only mentions notify: the homeserver counts nothing.
func TestMentionsOnly(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.sync(0, sent(1), sent(2))
	for n := uint32(1); n <= 2; n++ {
		s.l.decide(RefOf(nameOf(n)), nothing, &[]Outcome{{}, nothing, highlight}[n])
	}
	s.want("one is a mention", 1, 1)
	s.receipt(2, "", 50)
	s.want("it is read", 0, 0)
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	thread := func(n, root uint32) (Event, Relation) { return sent(n), Relation{Root: nameOf(root)} }
	fill := func(t *testing.T) *script {
		s := newScript(t)
		a, ra := thread(2, 1)
		c, rc := thread(4, 1)
		s.l.take(&Room{
			RoomID: room, Counts: &Counts{Notifications: 3}, Threads: map[id.EventID]Counts{"$1": {Notifications: 2}},
			Timeline: []Event{sent(1), a, sent(3), c, sent(5)}, Relations: map[int]Relation{1: ra, 3: rc},
		}, now)
		for n := uint32(1); n <= 5; n++ {
			s.decide(n, highlight)
		}
		return s
	}
	for _, tt := range []struct {
		name          string
		event         uint32
		thread        string
		main, inThead int
	}{
		{"none", 99, "main", 3, 2},
		{"unthreaded", 3, "", 1, 1},
		{"of the main timeline", 3, "main", 1, 2},
		{"of the thread", 4, "$1", 3, 0},
		{"of the thread, its first", 2, "$1", 3, 1},
		{"of another thread", 4, "$9", 3, 2},
		{"for the newest", 5, "", 0, 0},
	} {
		for _, restart := range []bool{false, true} {
			s := fill(t)
			if restart {
				s.restart()
			}
			s.l.receive(Receipt{Event: nameOf(tt.event), Thread: tt.thread, Timestamp: 1})
			all, _ := s.l.counted(s.l.Counts, true)
			got := []int{all[0].Highlights, all[s.l.thread("$1")].Highlights}
			if diff := cmp.Diff([]int{tt.main, tt.inThead}, got); diff != "" {
				t.Errorf("%s, restart %v (-want +got):\n%s", tt.name, restart, diff)
			}
		}
	}
}

// A receipt may come before its event, in another order than it was sent, and for an event that
// was never seen.
func TestReceiptsOutOfOrder(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.receipt(2, "", 30)
	s.sync(3, sent(1), sent(2), sent(3))
	for n := uint32(1); n <= 3; n++ {
		s.decide(n, highlight)
	}
	s.want("it came before its event", 3, 1)
	s.receipt(1, "", 31)
	s.want("an older event", 3, 1)

	s = newScript(t)
	s.sync(1, sent(100))
	s.decide(100, highlight)
	s.receipt(7777, "", 200)
	s.want("nothing was missed: the unknown event is older", 1, 1)
	s.l.take(&Room{RoomID: room, Limited: true, Timeline: []Event{sent(300)}, Counts: &Counts{Notifications: 2}}, now)
	s.decide(300, highlight)
	s.want("the receipt may be for what was missed, and was sent after the mention", 2, 1)
	s = newScript(t)
	s.sync(1, sent(100))
	s.decide(100, highlight)
	s.l.take(&Room{RoomID: room, Limited: true, Timeline: []Event{sent(300)}, Counts: &Counts{Notifications: 2}}, now)
	s.decide(300, highlight)
	s.receipt(7777, "", 50)
	s.want("a receipt from before the mention cannot be for it", 2, 2)
}

// Attack: a sender dates a mention back, so that it counts as read, or into the future, so that
// it never does. The order of the events counts, and of two times the earlier.
func TestDatesOfSendersDoNotDecide(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	old, future := sent(1), sent(2)
	old.At, future.At = 0, 4_000_000_000
	s.sync(2, future, old)
	s.decide(1, highlight)
	s.decide(2, highlight)
	s.receipt(2, "", 9)
	s.want("the one behind the receipt stays, whatever its date", 2, 1)
	s.l.take(&Room{RoomID: room, Limited: true, Counts: &Counts{Notifications: 2}}, now)
	s.receipt(7777, "", 20_000)
	s.want("after a gap", 2, 0)
}

func TestRedactedEventsDoNotCount(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.sync(1, sent(1))
	s.decide(1, highlight)
	s.want("a mention", 1, 1)
	gone := sent(2)
	gone.Sealed = false
	s.l.take(&Room{RoomID: room, Timeline: []Event{gone}, Relations: map[int]Relation{0: {About: RefOf(id.EventID("$1")), Redacts: true}}, Counts: &Counts{}}, now)
	s.want("it was redacted", 0, 0)
	s.decide(1, highlight)
	s.want("decided again", 0, 0)
}

func TestEventsBeforeTheJoinDoNotCount(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	join := sent(3)
	join.Sealed, join.Joins = false, true
	outside := sent(4)
	outside.Outside = true
	s.sync(1, sent(1), sent(2), join, outside, sent(5))
	for n := uint32(1); n <= 5; n++ {
		s.decide(n, highlight)
	}
	s.want("only what came after it", 1, 1)
}

// An edit in a thread belongs to the thread.
func TestRelationsStayInTheirThread(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.l.take(&Room{
		RoomID: room, Counts: &Counts{}, Threads: map[id.EventID]Counts{"$1": {Notifications: 2}},
		Timeline:  []Event{sent(1), sent(2), sent(3)},
		Relations: map[int]Relation{1: {Root: "$1"}, 2: {About: RefOf(id.EventID("$2"))}},
	}, now)
	s.decide(2, notifies)
	s.decide(3, nothing)
	all, _ := s.l.counted(s.l.Counts, true)
	if got := all[s.l.thread("$1")].Notifications; got != 1 {
		t.Errorf("the thread has %d", got)
	}
}

// If the homeserver counts fewer than are unread here, the oldest were read, by a receipt that
// the client's filter keeps away.
func TestTheHomeserverKnowsOfReceiptsThatWereNotSeen(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.sync(3, sent(1), sent(2), sent(3))
	for n := uint32(1); n <= 3; n++ {
		s.decide(n, highlight)
	}
	s.want("all", 3, 3)
	s.sync(1)
	s.want("one is left", 1, 1)
	s.sync(0)
	s.want("none is", 0, 0)
	s.sync(3)
	s.want("it only lagged behind", 3, 3)
}

// A log is bounded, whatever is in it, and what no longer has an entry still counts.
func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	const many = 3 * maxEntries
	for n := uint32(1); n <= many; n++ {
		ev := sent(n)
		s.l.take(&Room{
			RoomID: room, Timeline: []Event{ev}, Relations: map[int]Relation{0: {Root: nameOf(n % 100)}}, Counts: &Counts{Notifications: many},
		}, now)
		s.decide(n, highlight)
	}
	if len(s.l.Entries) > maxEntries+1 || len(s.l.Threads) > maxThreads {
		t.Errorf("%d entries, %d threads", len(s.l.Entries), len(s.l.Threads))
	}
	s.want("all are counted", many, many)
	s.receipt(many, "", 1)
	s.sync(0)
	s.want("all are read", 0, 0)
	if len(s.l.Entries) > maxRead+1 {
		t.Errorf("%d entries are left", len(s.l.Entries))
	}
}

// Whatever comes, in whatever order: numbers are not negative, no more is highlighted than
// notifies, and what is stored is what was.
func TestLogKeepsItsRules(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		s := newScript(t)
		for range 60 {
			n := r.Uint32N(40) + 1
			switch r.IntN(6) {
			case 0, 1:
				s.l.take(&Room{
					RoomID: room, Timeline: []Event{sent(n)}, Limited: r.IntN(5) == 0,
					Relations: map[int]Relation{0: {About: RefOf(nameOf(r.Uint32N(40))), Redacts: r.IntN(9) == 0}},
					Counts:    &Counts{r.IntN(9), 0}, Threads: map[id.EventID]Counts{nameOf(n): {r.IntN(3), 0}},
				}, now)
			case 2, 3:
				s.decide(n, []Outcome{nothing, notifies, highlight}[r.IntN(3)])
			case 4:
				s.receipt(n, []string{"", "main", string(nameOf(n))}[r.IntN(3)], int64(n))
			case 5:
				before, known := s.l.counted(s.l.Counts, true)
				if s.l.kept() == nil {
					continue
				}
				s.restart()
				after, _ := s.l.counted(s.l.Counts, true)
				if diff := cmp.Diff(before, after); diff != "" && known {
					t.Fatalf("a restart (-before +after):\n%s", diff)
				}
			}
			all, _ := s.l.counted(s.l.Counts, r.IntN(2) == 0)
			for _, c := range all {
				if c.Notifications < 0 || c.Highlights < 0 || c.Highlights > c.Notifications {
					t.Fatalf("%+v", c)
				}
			}
		}
	}
}
