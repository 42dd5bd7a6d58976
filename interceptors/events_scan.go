package interceptors

import (
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/jsonscan"
)

// The first pass over a body with events: it is spooled while the places are marked where
// the second pass may have to change something. What all such bodies have in common is
// here; where events stand in a body is in sync_graph.go and reads_table.go.

// watched returns the names for which an event takes the careful path of the second pass.
func watched() []string {
	return []string{nameDecrypted, prefixOurs + "*", nameRelations, nameRedactedBecause}
}

// eventScan is the state that all first passes share.
type eventScan struct {
	graphs         *eventGraphs
	showEncryption bool
	plan           planWriter
	due            *mark // the mark of the current room, until it is written

	head     eventHead
	imitates bool // the event imitates a notice of the proxy
	// The current list of events: the offset behind its bracket, and how many of its elements
	// are marked so far.
	list   int64
	marked int
	gone   [levels]struct {
		inside int64
		n      int
	}
	// plain reports whether the body has something in clear that should not be, if its room is
	// encrypted.
	plain bool
}

// enter sets the room of what follows.
func (s *eventScan) enter(room id.RoomID, section e2ee.Section) {
	s.due = &mark{kind: markRoom, room: room, section: section}
}

// examine examines an event at its end, after its head was taken.
func (s *eventScan) examine(v *jsonscan.Value) {
	if s.list != v.Inside {
		s.list, s.marked = v.Inside, 0
	}
	s.imitates = v.Raw != nil && s.graphs.imitates(v.Raw)
	s.head.readReaction(v.Raw)
}

// put writes a mark, after the mark of its room.
func (s *eventScan) put(m mark) error {
	if due := s.due; due != nil {
		s.due = nil
		if err := s.plan.add(due); err != nil {
			return err
		}
	}
	return s.plan.add(&m)
}

// element marks an element of a list of events.
func (s *eventScan) element(kind markKind, flags uint64, v *jsonscan.Value) error {
	if s.marked == 0 {
		flags |= flagFresh
	}
	if v.Index > s.marked {
		flags |= flagBefore
	}
	if v.Raw == nil {
		flags |= flagLarge
	}
	s.marked++
	return s.put(mark{kind: kind, flags: flags, start: v.Start, end: v.End, sep: v.Sep})
}

// drop marks a member of an object for removal.
func (s *eventScan) drop(level int, v *jsonscan.Value) error {
	g := &s.gone[level]
	if g.inside != v.Inside {
		g.inside, g.n = v.Inside, 0
	}
	var flags uint64
	if v.Index > g.n {
		flags = flagBefore
	}
	g.n++
	return s.put(mark{kind: markDropMember, flags: flags, start: v.Member, end: v.End, sep: v.Sep})
}

// close marks the end of an object.
func (s *eventScan) close(kind markKind, level int, v *jsonscan.Value) error {
	if v.Kind != '{' {
		return nil
	}
	var flags uint64
	removed := 0
	if g := s.gone[level]; g.inside == v.Start+1 {
		removed = g.n
	}
	if v.Count > removed {
		flags = flagBefore
	}
	return s.put(mark{kind: kind, flags: flags, start: v.End - 1, end: v.End - 1, sep: -1})
}

// timelineMark returns the mark for an event of a timeline.
func (s *eventScan) timelineMark(v *jsonscan.Value) (kind markKind, flags uint64) {
	switch {
	case s.imitates, s.hidesEncryption():
		return markDropEvent, 0
	case s.head.sealed():
		flags = flagSealed
		if s.head.types > 1 {
			flags |= flagAmbiguous
		}
	case s.head.shouldBeEncrypted():
		flags, s.plain = flagPlain, true
	}
	if v.Flagged {
		flags |= flagReserved
	}
	return markEvent, flags
}

// hidesEncryption reports whether the event is m.room.encryption that the client must not see: some
// clients without encryption refuse to send when they see it.
func (s *eventScan) hidesEncryption() bool {
	return !s.showEncryption && string(s.head.typ) == typeEncryption
}

// markKept marks an event that is kept, if it must be changed.
func (s *eventScan) markKept(v *jsonscan.Value, flags uint64) error {
	if v.Flagged {
		flags |= flagReserved
	}
	if flags == 0 {
		return nil
	}
	return s.element(markEvent, flags, v)
}
