package interceptors

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/spool"
)

// maxReadRooms is how many rooms of one answer are looked up, and maxPageToken the largest
// token of a page that is remembered, in bytes.
const (
	maxReadRooms = 1000
	maxPageToken = 1024
)

// errNoSuchEvent is the result of an answer about one event that the client must not be
// shown.
var errNoSuchEvent = errors.New("the event is not shown")

// readScan is the first pass over the answer to a read.
type readScan struct {
	eventScan
	family   *family
	room     id.RoomID // in the request's path
	backward bool      // the newest event of the page comes first

	eventRoom []byte
	replaces  bool
	entryRoom []byte

	past   history
	shown  histories
	rooms  []id.RoomID // of the answer, without duplicates
	seen   map[id.RoomID]bool
	marked bool // the entry has marks
	// entries are the rooms of the entries that have marks.
	entries []id.RoomID
	end     string
}

// scan reads body into a spool, and writes the plan for the second pass into another.
func (s *readScan) scan(body io.Reader, graph *jsonscan.Node, keep, plan *spool.Spool) error {
	s.plan = planWriter{to: plan}
	s.seen = map[id.RoomID]bool{}
	if s.family.room == roomOfPath {
		s.addRoom(s.room)
		s.enter(s.room, 0)
	}
	_, err := jsonscan.Scan(exchange.Spooling(body, keep), graph, jsonscan.Options{Watch: watched()}, s.visit)
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return s.plan.flush()
}

func (s *readScan) visit(v *jsonscan.Value) error {
	if s.head.take(v) {
		return nil
	}
	switch v.ID {
	case inRoomID:
		s.eventRoom = appendText(s.eventRoom[:0], v)
		return nil
	case inReplaces:
		s.replaces = true
		return nil
	}
	switch v.ID &^ readMask {
	case atPlace:
		err := s.event(&s.family.places[v.ID&readMask], v)
		s.head.reset()
		s.eventRoom, s.replaces = s.eventRoom[:0], false
		return err
	case atEntryID:
		s.entryRoom = appendText(s.entryRoom[:0], v)
	case atEntry:
		s.leaveEntry(v)
	case atPageEnd:
		s.end = string(appendText(nil, v))
	case atMember:
		return s.drop(v.ID&readMask, v)
	case atBody:
		if s.family.entry == "" {
			s.past.from, s.past.to, s.past.room = v.Start, v.End, s.room
			s.shown.add(s.past)
		}
	}
	return nil
}

// addRoom adds a room to look up.
func (s *readScan) addRoom(room id.RoomID) {
	if room != "" && !s.seen[room] && len(s.rooms) < maxReadRooms {
		s.seen[room] = true
		s.rooms = append(s.rooms, room)
	}
}

// leaveEntry ends an object with a history of its own.
func (s *readScan) leaveEntry(v *jsonscan.Value) {
	room := id.RoomID(s.entryRoom)
	s.past.from, s.past.to, s.past.room = v.Start, v.End, room
	s.shown.add(s.past)
	s.past = history{}
	if s.marked {
		s.entries = append(s.entries, room)
	}
	s.addRoom(room)
	s.marked, s.entryRoom = false, s.entryRoom[:0]
}

// event handles an event of a place, at its end, after its head was taken.
func (s *readScan) event(p *eventPlace, v *jsonscan.Value) error {
	s.examine(v)
	if s.family.room == roomOfEvent {
		if room := id.RoomID(bytes.Clone(s.eventRoom)); s.room != room {
			s.room = room
			s.addRoom(room)
			s.enter(room, 0)
		}
	}
	at := p.position
	if at == positionPaged {
		at = positionAfter
		if s.backward {
			at = positionBefore
		}
	}
	if s.head.isRoomEncryption() {
		s.past.addEncryption(at, v.Start, s.replaces)
	}
	kind, flags := s.markFor(p, v)
	if kind == 0 {
		return nil
	}
	if p.alone() {
		if kind == markDropEvent && s.family.entry == "" {
			return errNoSuchEvent
		}
		if kind == markDropEvent {
			kind, flags = markEvent, flagWithheld
		}
		if flags |= flagSingle; p.path == "" {
			flags |= flagWhole
		}
	}
	if s.family.room == roomOfEntry && !s.marked {
		s.marked = true
		s.enter("", sectionEntry)
	}
	return s.element(kind, flags|uint64(at)<<positionShift, v)
}

// markFor returns the mark for an event; none when it is not changed.
func (s *readScan) markFor(p *eventPlace, v *jsonscan.Value) (kind markKind, flags uint64) {
	switch p.kind {
	case placeMixed:
		if s.head.isEphemeral() {
			break
		}
		fallthrough
	case placeTimeline:
		if kind, flags = s.timelineMark(v); flags != 0 || kind != markEvent {
			return kind, flags
		}
		return 0, 0
	case placeState:
	}
	switch {
	case s.imitates, s.hidesEncryption():
		return markDropEvent, 0
	case v.Flagged:
		return markEvent, flagReserved
	}
	return 0, 0
}

// isRoomEncryption reports whether an event is the state that makes a room encrypted.
func (h *eventHead) isRoomEncryption() bool {
	return string(h.typ) == typeEncryption && h.types == 1 && string(h.stateKey) == `""`
}

// isEphemeral reports whether something among events is not part of the room, such as typing.
func (h *eventHead) isEphemeral() bool {
	switch string(h.typ) {
	case "m.typing", "m.receipt", "m.presence":
		return h.types == 1
	}
	return false
}

// sectionEntry stands for the room of an entry, which is known only at the end of the
// entry.
const sectionEntry e2ee.Section = 15
