package rewrite

import (
	"errors"
	"fmt"
	"io"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/bundled"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/spool"
)

// The first pass over a body: it is kept while the places are marked where the second pass may
// have to change something.

// maxRooms is how many rooms of one body are named to its handler.
const maxRooms = 1000

// planMemory is how much of a plan is held in memory, in bytes.
const planMemory = 256 << 10

// errForged is about an answer with a room of a name that only the proxy may use.
var errForged = errors.New("a room of the proxy's")

// scan is one first pass.
type scan struct {
	*Body
	shape   *Shape
	planned planWriter
	due     *mark // the mark of the current room, until it is written

	depth    int // of the current value
	head     head
	heads    bool // all of the heads is looked at
	imitates bool // the event imitates a notice of the proxy
	alone    bool // the place is that of one event
	// The current list of events: the offset behind its bracket, and how many of its elements
	// are marked so far.
	list   int64
	marked int
	// gone counts the members that are removed from the current object of each depth.
	gone [depthMask + 1]struct {
		inside int64
		n      int
	}

	room      id.RoomID
	entryRoom []byte
	inEntry   bool
	unwanted  bool // the client's filter leaves the entry out
	hasMarks  bool // the entry has marks
	forged    bool // the entry has a name that only the proxy may use
	seen      map[id.RoomID]bool

	// What hooks were given last, so that nothing is made for each event.
	told  Event
	found Found
}

// Read reads a body: the first pass. Its error is for the client. Close must be called
// afterwards, unless there is an error.
func (r *Rewriter) Read(from io.Reader, p Pass) (*Body, error) {
	b := &Body{
		rewriter: r, pass: p, kept: r.options.Spools.NewOfSize(p.Owner, p.Size), plan: r.options.Spools.New(p.Owner, planMemory),
	}
	s := &scan{Body: b, shape: &r.shape}
	if err := s.run(from, b.plan); err != nil {
		return nil, errors.Join(Failure(err), b.Close())
	}
	return b, nil
}

// run reads body, and writes the plan for the second pass.
func (s *scan) run(body io.Reader, plan *spool.Spool) error {
	s.planned = planWriter{to: plan}
	s.seen = map[id.RoomID]bool{}
	s.heads = s.pass.Filter != nil || s.pass.Event != "" || s.shape.Room == RoomOfEvent
	s.shown.rest = s.pass.Rest
	s.past = history{rest: s.pass.Rest}
	if s.shape.Room == RoomOfPath {
		s.room = s.pass.Room
		s.addRoom(s.room)
		s.enter(markRoom, s.room)
	}
	_, err := jsonscan.Scan(exchange.Spooling(body, s.kept), s.rewriter.places, jsonscan.Options{Watch: bundled.Watched()}, func(v *jsonscan.Value) error {
		if err := s.visit(v); err != nil {
			return &stopError{err}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return s.planned.flush()
}

func (s *scan) visit(v *jsonscan.Value) error {
	index, entry := v.ID&indexMask, v.ID>>entryShift&entryMask
	s.depth = v.ID >> depthShift & depthMask
	if entry != 0 && s.shape.Room == RoomOfName {
		s.enterEntry(entry, v)
	}
	switch class(v.ID >> classShift) {
	case aPlace:
		return s.event(&s.shape.Places[index], index, v)
	case aValue:
		if s.pass.Hooks.Value != nil {
			s.found = Found{Value: v, Tag: s.shape.Values[index].Tag, scan: s}
			return s.pass.Hooks.Value(&s.found)
		}
	case anEntryRoom:
		s.entryRoom = append(s.entryRoom[:0], textOf(v.Kind, v.Raw)...)
		s.forged = s.forged || e2ee.IsNoticeName(string(s.entryRoom)) // also if another one follows
	case anEntry:
		return s.leaveEntry(v)
	case aMember:
		if entry != 0 && s.unwanted {
			return nil
		}
		return s.drop(v)
	case aBody:
		s.past.from, s.past.to, s.past.room = v.Start, v.End, s.room
		s.shown.add(s.past)
	}
	return nil
}

// addRoom adds a room to those that are named to the handler.
func (s *scan) addRoom(room id.RoomID) {
	if room != "" && !s.seen[room] && len(s.rooms) < maxRooms {
		s.seen[room] = true
		s.rooms = append(s.rooms, room)
	}
}

// enterEntry sets the room of a value from the name of its entry, unless it is the current one.
func (s *scan) enterEntry(entry int, v *jsonscan.Value) {
	if s.inEntry {
		return
	}
	name := v.Name(nameOf(s.shape.Entries[entry-1]))
	if name == nil {
		return
	}
	if len(name) > maxIdentifier {
		name = nil // not a room ID: its events are cleaned, nothing else
	}
	s.inEntry, s.room = true, id.RoomID(name)
	s.enter(markRoom, s.room)
	s.unwanted = !s.pass.Filter.WantsRoom(s.room) || e2ee.IsNoticeName(string(s.room))
	if s.pass.Hooks.Enter != nil {
		s.pass.Hooks.Enter(entry-1, s.room, !s.unwanted)
	}
}

// leaveEntry ends an object with a history of its own.
func (s *scan) leaveEntry(v *jsonscan.Value) error {
	room := s.room
	if s.shape.Room != RoomOfName {
		room = id.RoomID(s.entryRoom)
		s.addRoom(room)
	}
	s.past.from, s.past.to, s.past.room = v.Start, v.End, room
	s.shown.add(s.past)
	s.past = history{rest: s.shown.rest}
	if s.hasMarks {
		s.marks = append(s.marks, room)
	}
	if s.forged && s.hasMarks { // it is too late to leave it out, and no homeserver has such a room
		return Unreadable(errForged)
	}
	unwanted := s.unwanted || s.forged
	s.inEntry, s.unwanted, s.forged, s.hasMarks, s.entryRoom = false, false, false, false, s.entryRoom[:0]
	if unwanted {
		if err := s.drop(v); err != nil {
			return err
		}
	}
	if s.pass.Hooks.Leave != nil {
		s.found = Found{Value: v, scan: s}
		return s.pass.Hooks.Leave(&s.found)
	}
	return nil
}

// event handles an event of a place, at its end.
func (s *scan) event(p *Place, index int, v *jsonscan.Value) error {
	s.head.read(v, s.heads)
	s.examine(v)
	if s.shape.Room == RoomOfEvent && string(s.head.roomID) != string(s.room) {
		s.room = id.RoomID(s.head.roomID)
		s.addRoom(s.room)
		s.enter(markRoom, s.room)
	}
	at := p.Position
	if at == Paged {
		at = After
		if s.pass.Backward {
			at = Before
		}
	}
	if s.head.isRoomEncryption() {
		s.past.addEncryption(at, v.Start, replaces(v.Raw))
	}
	if s.pass.Hooks.Event != nil {
		e := &s.told
		*e = Event{Place: index, Type: s.head.typ, Membership: s.head.membership, Raw: v.Raw, Object: v.Kind == '{', value: v, scan: s}
		if s.head.hasStateKey {
			e.StateKey = s.head.stateKey
		}
		if err := s.pass.Hooks.Event(e); err != nil {
			return err
		}
	}
	if s.unwanted {
		return nil
	}
	s.alone = s.rewriter.alone[index]
	kind, flags := s.markFor(p, v)
	flags |= s.countListed(p)
	if p.Grows && v.Index == 0 {
		if err := s.front(v, kind != 0); err != nil {
			return err
		}
	}
	if kind == 0 {
		return nil
	}
	if s.alone {
		var err error
		if kind, flags, err = s.standing(p, kind, flags); err != nil {
			return err
		}
	}
	if s.shape.Room == RoomOfEntry && !s.hasMarks {
		s.hasMarks = true
		s.enter(markEntry, "")
	}
	return s.element(kind, flags|uint64(at)<<positionShift, v)
}

// countListed counts an event if it is in a list of a timeline, and returns the flag for that.
func (s *scan) countListed(p *Place) uint64 {
	if s.alone || p.Kind != Timeline && p.Kind != Mixed {
		return 0
	}
	s.listed++
	return flagListed
}

// standing returns the mark for an event that cannot be left out.
func (s *scan) standing(p *Place, kind markKind, flags uint64) (markKind, uint64, error) {
	if kind == markDropEvent {
		kind = markEvent
		switch whole := p.Path == ""; {
		case !whole && !s.left(p) && s.hidesEncryption():
			flags = flagStandIn
		case whole, len(s.shape.Entries) == 0:
			return 0, 0, apierr.NotFound("There is no such event.")
		default:
			flags = flagWithheld
		}
	}
	if flags |= flagSingle; p.Path == "" {
		flags |= flagWhole
	}
	return kind, flags, nil
}

// examine examines an event, after its head was read.
func (s *scan) examine(v *jsonscan.Value) {
	if s.list != v.Inside {
		s.list, s.marked = v.Inside, 0
	}
	s.imitates = v.Raw != nil && mayImitate(v) && s.rewriter.graphs.imitates(v.Raw)
	s.head.readReaction(v.Raw)
}

// left reports whether an event is left out wherever it stands: it imitates a notice, was written
// only to move the homeserver's tokens, or is not the one that was asked for.
func (s *scan) left(p *Place) bool {
	return s.imitates || string(s.head.typ) == e2ee.TypeMoved || p.Asked && s.pass.Event != "" && string(s.head.eventID) != string(s.pass.Event)
}

// markFor returns the mark for an event; none when it is not changed.
func (s *scan) markFor(p *Place, v *jsonscan.Value) (kind markKind, flags uint64) {
	left := s.left(p)
	switch p.Kind {
	case Timeline:
		return s.timelineMark(left, v)
	case Mixed:
		if !s.head.isEphemeral() {
			return s.mixedMark(left, v)
		}
	case State:
		if !s.head.isState() && s.head.types > 0 {
			return s.timelineMark(left, v)
		}
		left = left || s.hidesEncryption() || !s.pass.Filter.State().Passes(s.room, s.head.filtered())
		flags = s.fieldsFlag()
	case Stripped:
		left = left || s.hidesEncryption() || !s.head.isState() && s.head.types > 0
	case AccountData:
		left = left || s.hidesEncryption() || !s.pass.Filter.OfAccountData().PassesType(s.head.typ)
	case Other:
		left = left || s.hidesEncryption()
	}
	if left {
		return markDropEvent, 0
	}
	return kept(v, flags)
}

// timelineMark is like markFor, for an event of a timeline.
func (s *scan) timelineMark(left bool, v *jsonscan.Value) (kind markKind, flags uint64) {
	flags, left = s.secrecy(left)
	if left || flags&flagSealed == 0 && !s.alone && !s.pass.Filter.Timeline().Passes(s.room, s.head.filtered()) {
		return markDropEvent, 0
	}
	return kept(v, flags|s.fieldsFlag()) // the filter applies to the decrypted event
}

// mixedMark is like timelineMark, without a filter.
func (s *scan) mixedMark(left bool, v *jsonscan.Value) (kind markKind, flags uint64) {
	if flags, left = s.secrecy(left); left {
		return markDropEvent, 0
	}
	if flags != 0 {
		flags |= flagUnfiltered
	}
	return kept(v, flags)
}

// secrecy says whether an event of a timeline is encrypted, or should be, and whether it is left
// out.
func (s *scan) secrecy(left bool) (uint64, bool) {
	switch {
	case left, s.hidesEncryption():
		return 0, true
	case s.head.sealed() && s.head.types > 1:
		return flagSealed | flagAmbiguous, false
	case s.head.sealed():
		return flagSealed, false
	case s.head.shouldBeEncrypted():
		s.plain = true
		return flagPlain, false
	}
	return 0, false
}

// kept returns the mark for an event that is kept, if it must be changed.
func kept(v *jsonscan.Value, flags uint64) (markKind, uint64) {
	if v.Flagged {
		flags |= flagReserved
	}
	if flags == 0 {
		return 0, 0
	}
	return markEvent, flags
}

func (s *scan) fieldsFlag() uint64 {
	if s.pass.Filter != nil && s.pass.Filter.Tree != nil {
		return flagFields
	}
	return 0
}

// hidesEncryption reports whether the event is m.room.encryption that the client must not see:
// some clients without encryption refuse to send when they see it.
func (s *scan) hidesEncryption() bool {
	return !s.rewriter.options.ShowEncryption && string(s.head.typ) == typeEncryption
}

// replaces reports whether a state event replaced another; one that cannot be read did.
func replaces(event []byte) bool {
	var e struct {
		PrevContent jsontext.Value `json:"prev_content"`
		Replaces    jsontext.Value `json:"replaces_state"`
		Unsigned    struct {
			PrevContent jsontext.Value `json:"prev_content"`
			Replaces    jsontext.Value `json:"replaces_state"`
		} `json:"unsigned"`
	}
	if jsonv2.Unmarshal(event, &e) != nil {
		return true
	}
	return e.PrevContent != nil || e.Replaces != nil || e.Unsigned.PrevContent != nil || e.Unsigned.Replaces != nil
}
