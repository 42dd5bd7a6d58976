package rewrite

import (
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/jsonscan"
)

// Hooks are called while a body is read, with what a handler needs of it besides. Each may be
// nil. Their errors end the reading and are returned as they are. What they are given is valid
// during the call only.
type Hooks struct {
	// Enter is called when an entry begins, with its index in [Shape.Entries], and whether the
	// client's filter lets its room pass. It is for shapes with [RoomOfName].
	Enter func(entry int, room id.RoomID, wanted bool)
	// Event is called for every event, before anything is decided about it.
	Event func(e *Event) error
	// Value is called for every value of [Shape.Values].
	Value func(f *Found) error
	// Leave is called when an entry ends.
	Leave func(f *Found) error
}

// Event is what a handler sees of an event.
type Event struct {
	// Place is the index of its place in [Shape.Places].
	Place int
	Type  []byte // without escapes
	// StateKey and Membership are JSON; nil or empty when there is none. Of what is no state there
	// is no membership.
	StateKey, Membership []byte
	// Raw is the event; nil when it is too large.
	Raw []byte
	// Object reports whether it is an object at all.
	Object bool

	value *jsonscan.Value
	scan  *scan
}

// Repeated reports whether something that is looked at stands in the event more than once.
func (e *Event) Repeated() bool { return e.value.Repeated() }

// ID returns the event's ID.
func (e *Event) ID() jsonscan.Noted { return e.value.Noted(inEventID) }

// Inside returns what stands in the event at one of the paths of [Shape.Inside].
func (e *Event) Inside(n int) jsonscan.Noted { return e.value.Noted(inOwn + n) }

// Unordered records that the events of this entry may be from before or after the encryption of
// their room, unless the body shows it.
func (e *Event) Unordered() { e.scan.past.rest = e2ee.OrderUnknown }

// Found is a value that a handler asked for, at its end.
type Found struct {
	*jsonscan.Value
	// Tag is that of the [Value].
	Tag int

	scan *scan
}

// Remove leaves the value out.
func (f *Found) Remove() error { return f.scan.drop(f.Value) }

// Extend lets [Output.Added] put members at the end of an object.
func (f *Found) Extend(tag int) error {
	if f.Kind != '{' {
		return nil
	}
	var flags uint64
	removed := 0
	if g := f.scan.gone[f.scan.depth]; g.inside == f.Start+1 {
		removed = g.n
	}
	if f.Count > removed {
		flags = flagBefore
	}
	return f.scan.put(mark{kind: markEnd, flags: flags | uint64(tag)<<tagShift, start: f.End - 1, end: f.End - 1, sep: -1})
}

// ExtendList lets [Output.Added] put events at the front and at the back of the list of events
// of a place that [Place.Grows].
func (f *Found) ExtendList() error {
	s := f.scan
	if f.Count == 0 {
		if err := s.put(mark{kind: markFront, start: f.Start + 1, end: f.Start + 1, sep: -1}); err != nil {
			return err
		}
	}
	back := mark{kind: markBack, start: f.End - 1, end: f.End - 1, sep: -1}
	marked := 0
	if s.list == f.Start+1 {
		marked = s.marked
	}
	if f.Count > marked {
		back.flags = flagBefore
	}
	return s.put(back)
}

// enter sets the room of what follows.
func (s *scan) enter(kind markKind, room id.RoomID) { s.due = &mark{kind: kind, room: room} }

// put writes a mark, after the mark of its room.
func (s *scan) put(m mark) error {
	if due := s.due; due != nil {
		s.due = nil
		if err := s.planned.add(due); err != nil {
			return err
		}
	}
	return s.planned.add(&m)
}

// front marks the front of a list, before its first event.
func (s *scan) front(v *jsonscan.Value, touched bool) error {
	m := mark{kind: markFront, flags: flagAfter, start: v.Inside, end: v.Inside, sep: -1}
	if touched {
		m.flags |= flagTouched
	}
	return s.put(m)
}

// element marks an element of a list of events.
func (s *scan) element(kind markKind, flags uint64, v *jsonscan.Value) error {
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
func (s *scan) drop(v *jsonscan.Value) error {
	g := &s.gone[s.depth-1]
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
