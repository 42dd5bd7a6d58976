package interceptors

import (
	"io"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/spool"
)

// The first pass over a body with events: it is kept in a spool while the places are
// noted where the second pass may have to do something. What all such bodies have in
// common is here; where events stand in one is said in sync_graph.go and reads_table.go.

// watched are the names that send an event through the careful path of the second pass.
func watched() []string {
	return []string{nameDecrypted, prefixOurs + "*", nameRelations, nameRedactedBecause}
}

// eventScan is what every first pass keeps.
type eventScan struct {
	graphs         *eventGraphs
	showEncryption bool
	plan           planWriter
	due            *mark // of the room that the scan is in, until it is written

	head     eventHead
	imitates bool // the event is made to look like a notice of the proxy
	// The list of events that the scan is in: the offset behind its bracket, and how
	// many of its elements are marked so far.
	list   int64
	marked int
	gone   [levels]struct {
		inside int64
		n      int
	}
	// plain says that there is something in clear that should not be, if its room is encrypted.
	plain bool
}

// enter says that what follows is in a room.
func (s *eventScan) enter(room id.RoomID, section e2ee.Section) {
	s.due = &mark{kind: markRoom, room: room, section: section}
}

// look prepares for an event, at its end. Its head has been taken.
func (s *eventScan) look(v *jsonscan.Value) {
	if s.list != v.Inside {
		s.list, s.marked = v.Inside, 0
	}
	s.imitates = v.Raw != nil && s.graphs.imitates(v.Raw)
	s.head.weigh(v.Raw)
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

// drop marks a member of an object, by its level, as one that goes.
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

// close marks the end of an object of a level.
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

// toOpen says what becomes of an event of a timeline.
func (s *eventScan) toOpen(v *jsonscan.Value) (kind markKind, flags uint64) {
	switch {
	case s.imitates, s.hidden():
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
		flags |= flagOurs
	}
	return markEvent, flags
}

// hidden is for state that the client must not see (design §5): some clients without
// encryption refuse to send when they see it.
func (s *eventScan) hidden() bool {
	return !s.showEncryption && string(s.head.typ) == typeEncryption
}

// stay marks an event that stays, if there is something to do to it.
func (s *eventScan) stay(v *jsonscan.Value, flags uint64) error {
	if v.Flagged {
		flags |= flagOurs
	}
	if flags == 0 {
		return nil
	}
	return s.element(markEvent, flags, v)
}

// keepingReader puts what it reads into a spool.
type keepingReader struct {
	from io.Reader
	keep *spool.Spool
}

// spoolError is a failure to keep a body, which is none of the homeserver's.
type spoolError struct{ err error }

func (e *spoolError) Error() string { return "keep sync response: " + e.err.Error() }
func (e *spoolError) Unwrap() error { return e.err }

func (r *keepingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if n > 0 {
		if _, failed := r.keep.Write(p[:n]); failed != nil {
			return 0, &spoolError{failed}
		}
	}
	return n, err
}
