package unread

import (
	"cmp"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/wire"
)

const (
	// maxEntries bounds the events that are known of a room, maxRead those of them that were
	// read. What is older is added up.
	maxEntries = 128
	maxRead    = 32
	// maxThreads bounds the threads that are told apart in a room; further ones count as the
	// main timeline.
	maxThreads = 64
)

// entry is an event of a room, in the order in which they came. There are many, so it is small.
type entry struct {
	Event Ref `json:"e"`
	// At is when it was sent, or when it was seen if that was earlier, in seconds.
	At uint32 `json:"a"`
	// Notify and Highlight are what it adds to what the homeserver counts.
	Notify    int32 `json:"n,omitempty"`
	Highlight int32 `json:"h,omitempty"`
	Thread    uint8 `json:"t,omitempty"` // index in log.Threads
	Sealed    bool  `json:"s,omitempty"`
	// Judged says that Counted, whether the homeserver counts it, and Loud, whether as a
	// highlight, are known, Decided that Notify and Highlight are.
	Judged  bool `json:"j,omitempty"`
	Decided bool `json:"d,omitempty"`
	Counted bool `json:"c,omitempty"`
	Loud    bool `json:"l,omitempty"`
	Read    bool `json:"r,omitempty"`
}

// matters reports whether an entry must outlive the process: the homeserver's numbers are
// wrong by it, or may turn out to be.
func (e *entry) matters() bool {
	return !e.Read && (e.Notify != 0 || e.Highlight != 0 || e.Sealed && !e.Decided)
}

// receipt is the latest receipt of the user for a thread or, with scopeAll, for everything.
type receipt struct {
	Event Ref   `json:"e"`
	At    int64 `json:"a"` // in seconds
}

// Scopes of receipts, beside the indices of threads from 1.
const (
	scopeAll  = -1
	scopeMain = 0
)

// log is what is known of a room's latest events, for one account.
type log struct {
	mu locks.Mutex
	// version counts changes, saved is the version that is stored; stored says that a row is.
	version, saved uint64
	stored         bool

	room id.RoomID
	state
	// gap is how many entries came before events that were not seen. What a receipt names
	// and is not here may be among those.
	gap int
}

// state is what is stored of a log.
type state struct {
	Entries  []entry
	Threads  []id.EventID // roots; the first stands for the main timeline
	Receipts map[int]receipt
	// Counts are the homeserver's numbers, by thread.
	Counts map[int]Counts
	// Name is the user's in the room if it is not the one of the profile, Members how many
	// have joined; zero: not known.
	Name    string
	Members int
}

// Counts are numbers of unread messages.
type Counts struct {
	Notifications int `json:"notification_count"`
	Highlights    int `json:"highlight_count"`
}

// thread returns the index of a thread; 0 also when there are too many, or the root is longer
// than an event's ID can be: anybody in the room names roots, and they are stored.
func (l *log) thread(root id.EventID) int {
	if root == "" || len(root) > wire.MaxIDLength {
		return 0
	}
	if len(l.Threads) == 0 {
		l.Threads = []id.EventID{""}
	}
	if i := slices.Index(l.Threads, root); i >= 0 {
		return i
	}
	if len(l.Threads) >= maxThreads {
		return 0
	}
	l.Threads = append(l.Threads, root)
	return len(l.Threads) - 1
}

func (l *log) find(event Ref) int {
	return slices.IndexFunc(l.Entries, func(e entry) bool { return e.Event == event })
}

// take records what a sync says of the room. The caller holds mu.
func (l *log) take(u *Room, now time.Time) {
	l.version++
	if u.Limited {
		l.gap = len(l.Entries)
	}
	if u.Name != nil {
		l.Name = *u.Name
	}
	if u.Members > 0 {
		l.Members = u.Members
	}
	for i := range u.Timeline {
		l.append(&u.Timeline[i], u.Relations[i], now)
	}
	for _, r := range u.Receipts {
		l.receive(r)
	}
	if base := l.base(u); base != nil {
		l.Counts = base
	}
	l.settle()
	l.trim()
}

// base returns the homeserver's numbers in a response, by thread; nil when it has none.
func (l *log) base(u *Room) map[int]Counts {
	if u == nil || u.Counts == nil {
		return nil
	}
	base := make(map[int]Counts, 1+len(u.Threads))
	base[0] = *u.Counts
	for root, counts := range u.Threads {
		if t := l.thread(root); t > 0 {
			base[t] = counts
		}
	}
	return base
}

func (l *log) append(ev *Event, to Relation, now time.Time) {
	about := -1
	if to.About != 0 {
		about = l.find(to.About)
	}
	if to.Redacts && about >= 0 { // the homeserver counts it no longer
		e := &l.Entries[about]
		e.Counted, e.Loud, e.Notify, e.Highlight, e.Judged, e.Decided = false, false, 0, 0, true, true
	}
	if ev.Joins { // what was sent before is not counted
		for i := range l.Entries {
			l.Entries[i].Read = true
		}
	}
	if ev.Ref == 0 || l.find(ev.Ref) >= 0 {
		return
	}
	e := entry{Event: ev.Ref, At: min(ev.At, uint32(max(now.Unix(), 0))), Sealed: ev.Sealed && !ev.Outside, Read: ev.Outside}
	switch {
	case to.Root != "":
		e.Thread = uint8(l.thread(to.Root)) // at most maxThreads
	case about >= 0: // a reaction or an edit belongs to the thread of its event
		e.Thread = l.Entries[about].Thread
	}
	l.Entries = append(l.Entries, e)
}

// receive records a receipt. One for the whole room takes the place of no other: which is
// further is seen from the events.
func (l *log) receive(r Receipt) {
	scope := scopeAll
	switch r.Thread {
	case "":
	case threadMain:
		scope = scopeMain
	default:
		if scope = l.thread(id.EventID(r.Thread)); scope == 0 {
			return
		}
	}
	if l.Receipts == nil {
		l.Receipts = make(map[int]receipt)
	}
	l.Receipts[scope] = receipt{RefOf(r.Event), r.Timestamp / 1000}
	l.cover(scope)
}

// settle applies the receipts, also those that came before their events.
func (l *log) settle() {
	for scope := range l.Receipts {
		l.cover(scope)
	}
}

// cover marks what a receipt covers as read. If its event is not among those that are known,
// it is older than them, or one of those that were not seen: then everything before the gap
// that is older than the receipt is read.
func (l *log) cover(scope int) {
	r := l.Receipts[scope]
	last := l.find(r.Event)
	for i := range l.Entries {
		e := &l.Entries[i]
		covered := i <= last || last < 0 && i < l.gap && int64(e.At) <= r.At
		if covered && (scope == scopeAll || scope == int(e.Thread)) {
			e.Read = true
		}
	}
}

// trim keeps the log short: events that were read go, and of others the oldest are added to
// the next of their thread.
func (l *log) trim() {
	read := 0
	for i := len(l.Entries) - 1; i >= 0; i-- {
		if l.Entries[i].Read {
			if read++; read > maxRead {
				l.drop(i)
			}
		}
	}
	for len(l.Entries) > maxEntries {
		i := max(slices.IndexFunc(l.Entries, func(e entry) bool { return !e.matters() }), 0)
		if old := l.Entries[i]; old.matters() {
			next := slices.IndexFunc(l.Entries[i+1:], func(e entry) bool { return e.Thread == old.Thread && !e.Read })
			if next >= 0 {
				l.Entries[i+1+next].Notify += old.Notify
				l.Entries[i+1+next].Highlight += old.Highlight
			}
		}
		l.drop(i)
	}
}

func (l *log) drop(i int) {
	l.Entries = slices.Delete(l.Entries, i, i+1)
	if i < l.gap {
		l.gap--
	}
}

// waitsFor reports whether it matters what the rules say of an event. Of most on a page of
// history it was said before, or the event is older than what is counted.
func (l *log) waitsFor(event Ref) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.find(event)
	return i >= 0 && l.Entries[i].Sealed && !l.Entries[i].Decided
}

// decide records what the rules say of an event: of what the homeserver has and, unless it
// could not be decrypted, of the clear event. missed says that only that one notifies.
func (l *log) decide(event Ref, counted Outcome, clear *Outcome) (missed bool) {
	i := l.find(event)
	if i < 0 || !l.Entries[i].Sealed || l.Entries[i].Decided {
		return false
	}
	e := &l.Entries[i]
	if !e.Judged {
		e.Judged, e.Counted, e.Loud = true, counted.Notify, counted.Highlight
	}
	l.version++
	if clear == nil {
		return false
	}
	e.Decided = true
	e.Notify += number(clear.Notify) - number(e.Counted)
	e.Highlight += number(clear.Highlight) - number(e.Loud)
	return clear.Notify && !e.Counted
}

func number(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// counted returns the numbers by thread: the homeserver's, and what they are wrong by. With
// split, threads have numbers of their own; known is false when the homeserver gave none.
func (l *log) counted(base map[int]Counts, split bool) (all map[int]Counts, known bool) {
	if _, known = base[0]; !known {
		return nil, false
	}
	all = make(map[int]Counts, len(base))
	left := make(map[int]int, len(base)) // of those that the homeserver still counts
	for t, c := range base {
		if !split {
			t = 0
		}
		sum := all[t]
		all[t] = Counts{sum.Notifications + c.Notifications, sum.Highlights + c.Highlights}
		left[t] = all[t].Notifications
	}
	for i := len(l.Entries) - 1; i >= 0; i-- {
		e := &l.Entries[i]
		t := int(e.Thread)
		if !split {
			t = 0
		}
		if e.Read || left[t] < 0 {
			continue
		}
		// If the homeserver counts fewer than are unread here, the oldest were read without
		// a receipt that was seen.
		if e.Counted {
			if left[t]--; left[t] < 0 {
				continue
			}
		}
		sum := all[t]
		all[t] = Counts{sum.Notifications + int(e.Notify), sum.Highlights + int(e.Highlight)}
	}
	for t, c := range all {
		c.Highlights = max(c.Highlights, 0)
		all[t] = Counts{max(c.Notifications, c.Highlights), c.Highlights}
	}
	return all, true
}

// kept returns what must outlive the process; nil when that is nothing.
func (l *log) kept() *state {
	first := slices.IndexFunc(l.Entries, func(e entry) bool { return e.matters() })
	if first < 0 {
		return nil
	}
	s := l.state
	s.Entries = l.Entries[max(first-maxRead, 0):] // receipts for what was before cover nothing of it
	return &s
}

// newer orders receipts by when they were sent.
func newer(a, b Receipt) int { return cmp.Compare(a.Timestamp, b.Timestamp) }
