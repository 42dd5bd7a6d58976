package rewrite

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/spool"
)

// markKind is the kind of a place in a body.
type markKind byte

const (
	// markRoom: the marks up to the next are in this room. markEntry: in that of their entry,
	// which is known only at its end.
	markRoom markKind = iota + 1
	markEntry
	// markFront is the place for events behind the opening bracket of a list.
	markFront
	// markEvent is an event that is, or may be, rewritten.
	markEvent
	// markDropEvent is an event to remove, markDropMember a member of another object.
	markDropEvent
	markDropMember
	// markBack is the place for events before the closing bracket of a list.
	markBack
	// markEnd is the place for members before the closing bracket of an object.
	markEnd
)

// Flags of a mark.
const (
	// flagBefore: something that is not marked precedes this place in its container.
	flagBefore = 1 << iota
	// flagFresh: the first mark in its array.
	flagFresh
	// flagAfter (markFront): an element follows; flagTouched: it is marked.
	flagAfter
	flagTouched
	// flagSealed: the event is encrypted. flagPlain: it should be, if its room is.
	flagSealed
	flagPlain
	// flagReserved: the event has members that only the proxy may add.
	flagReserved
	// flagLarge: too large to be read.
	flagLarge
	// flagAmbiguous: the event has more than one type.
	flagAmbiguous
	// flagFields: the filter's event_fields apply.
	flagFields
	// flagSingle: an event that is no element of a list, and cannot be left out. flagWhole: it
	// is the whole body. flagWithheld: it must not be shown.
	flagSingle
	flagWhole
	flagWithheld
	// flagListed: the event is in a list of a timeline.
	flagListed
	// flagStandIn: it must not be shown, and an empty message with its ID is.
	flagStandIn
	// flagUnfiltered: the client's filter does not apply.
	flagUnfiltered
)

// The bits of the flags at which an event's [Position], and the tag of a markEnd, begin.
const (
	positionShift = 24
	tagShift      = 32
)

// mark is one entry of the plan: a place in the body where the second pass may have to
// change something. The plan has a spool of its own, so that its size does not matter.
type mark struct {
	kind       markKind
	flags      uint64
	start, end int64
	sep        int64 // of the comma before it, or -1
	room       id.RoomID
}

// setsRoom reports whether a mark is about the room of the marks behind it.
func (k markKind) setsRoom() bool { return k == markRoom || k == markEntry }

func (m *mark) has(flag uint64) bool { return m.flags&flag != 0 }

// planWriter writes marks in the order of the body.
type planWriter struct {
	to   *spool.Spool
	last int64
	buf  []byte
}

const planBuffer = 4 << 10

func (p *planWriter) add(m *mark) error {
	p.buf = append(p.buf, byte(m.kind))
	if m.kind.setsRoom() {
		p.buf = binary.AppendUvarint(p.buf, uint64(len(m.room)))
		p.buf = append(p.buf, m.room...)
	} else {
		var sep int64
		if m.sep >= 0 {
			sep = m.start - m.sep
		}
		p.buf = binary.AppendUvarint(p.buf, m.flags)
		for _, v := range []int64{m.start - p.last, m.end - m.start, sep} {
			p.buf = binary.AppendVarint(p.buf, v)
		}
		p.last = m.start
	}
	if len(p.buf) < planBuffer {
		return nil
	}
	return p.flush()
}

func (p *planWriter) flush() error {
	_, err := p.to.Write(p.buf)
	p.buf = p.buf[:0]
	if err != nil {
		return fmt.Errorf("keep the plan of an answer: %w", err)
	}
	return nil
}

// maxMark is the most that a mark takes, without the name of its room.
const maxMark = 1 + 4*binary.MaxVarintLen64

// errPlan is a plan that is not what was written.
var errPlan = errors.New("read the plan of an answer: it is damaged")

// planReader reads what a planWriter wrote.
type planReader struct {
	r    *bufio.Reader
	last int64
}

func newPlanReader(from *spool.Spool) *planReader {
	return &planReader{r: bufio.NewReaderSize(from.Reader(), planBuffer)}
}

// next reads the next mark; io.EOF at the end.
func (p *planReader) next(m *mark) error {
	b, err := p.r.Peek(maxMark)
	switch {
	case len(b) == 0 && errors.Is(err, io.EOF):
		return io.EOF
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("read the plan of an answer: %w", err)
	}
	*m = mark{kind: markKind(b[0]), sep: -1}
	number, size := binary.Uvarint(b[1:])
	if size <= 0 {
		return errPlan
	}
	used := 1 + size
	if m.kind.setsRoom() {
		return p.readRoom(m, used, number)
	}
	m.flags = number
	var v [3]int64
	for i := range v {
		if v[i], size = binary.Varint(b[used:]); size <= 0 {
			return errPlan
		}
		used += size
	}
	m.start = p.last + v[0]
	m.end = m.start + v[1]
	if v[2] != 0 {
		m.sep = m.start - v[2]
	}
	p.last = m.start
	return p.skip(used)
}

// readRoom reads the name of a room, which begins behind used bytes.
func (p *planReader) readRoom(m *mark, used int, size uint64) error {
	if err := p.skip(used); err != nil {
		return err
	}
	name, err := p.r.Peek(int(min(size, maxIdentifier)))
	if err != nil {
		return fmt.Errorf("read the plan of an answer: %w", err)
	}
	m.room = id.RoomID(name)
	return p.skip(len(name))
}

func (p *planReader) skip(n int) error {
	if _, err := p.r.Discard(n); err != nil {
		return fmt.Errorf("read the plan of an answer: %w", err)
	}
	return nil
}

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
func (f *Found) Extend(tag int) error { return f.extend('{', tag) }

// ExtendArray lets it put elements at the end of a list of anything but events.
func (f *Found) ExtendArray(tag int) error { return f.extend('[', tag) }

func (f *Found) extend(kind byte, tag int) error {
	if f.Kind != kind {
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
