package interceptors

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/go-json-experiment/json"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/spool"
)

// The first pass over a sync body: it is spooled while what matters to encryption is taken
// from it, and the places are marked where the second pass may have to change something.

// maxUpdate is the most that is taken from one response, in bytes.
const maxUpdate = 64 << 20

// maxJoins is the most joins that are taken from one response. A room with further ones is
// reported as limited, so that the engine asks for its members when it needs them;
// departures are always reported.
const maxJoins = 10_000

// errSyncBody is a response that is not a sync response.
var errSyncBody = errors.New("not a sync response")

// syncScan is one first pass over a sync body.
type syncScan struct {
	eventScan
	filter *filter.Filter
	update e2ee.SyncUpdate
	held   heldUpdate
	joins  int // number of joins in update
	who    id.UserID
	shown  histories

	// The current room.
	inRoom    bool
	wanted    bool
	hasEvents bool // its timeline has events
	leftOut   bool // some of its joins were left out
	room      e2ee.RoomUpdate
	state     []e2ee.StateChange
	timeline  []e2ee.StateChange
	after     []e2ee.StateChange
	past      history
}

func newSyncScan(graphs *eventGraphs, plan *spool.Spool, filter *filter.Filter, showEncryption bool) *syncScan {
	return &syncScan{
		eventScan: eventScan{graphs: graphs, showEncryption: showEncryption, plan: planWriter{to: plan}}, filter: filter,
	}
}

// run reads body into a spool and returns what matters to encryption.
func (s *syncScan) run(body io.Reader, graph *jsonscan.Node, keep *spool.Spool) (e2ee.SyncUpdate, error) {
	if s.update.Since != "" { // a sync that continues from an earlier one
		s.shown.rest = e2ee.OrderAfter
	}
	_, err := jsonscan.Scan(exchange.Spooling(body, keep), graph, jsonscan.Options{Watch: watched()}, s.visit)
	if err != nil {
		return s.update, fmt.Errorf("read sync response: %w", err)
	}
	if s.update.NextBatch == "" {
		return s.update, errSyncBody
	}
	return s.update, s.plan.flush()
}

func (s *syncScan) visit(v *jsonscan.Value) error {
	if s.head.take(v) {
		return nil
	}
	section := e2ee.Section(v.ID >> sectionShift & sectionMask)
	if section != 0 {
		s.enterRoom(v, section)
	}
	switch place := v.ID & placeMask; place {
	case atTimelineEvent, atStateEvent, atStateAfterEvent, atStrippedEvent, atOtherEvent, atAccountEvent:
		err := s.event(place, v)
		s.head.reset()
		return err
	case atTimelineEvents, atTimeline, atLimited, atRoom:
		return s.roomPart(place, v)
	case atSection, atRooms, atTop:
		return s.end(place, section, v)
	case atOurs:
		level := v.ID >> levelShift
		if level >= levelRoom && section != 0 && !s.wanted {
			return nil
		}
		return s.drop(level, v)
	default:
		return s.topLevel(place, v)
	}
}

// enterRoom sets the room of a value, unless it is the current one.
func (s *syncScan) enterRoom(v *jsonscan.Value, section e2ee.Section) {
	name := v.Name(0)
	if s.inRoom || name == nil {
		return
	}
	if len(name) > maxIdentifier {
		name = nil // not a room ID: its events are cleaned, nothing else
	}
	s.inRoom, s.hasEvents, s.leftOut = true, false, false
	s.room = e2ee.RoomUpdate{RoomID: id.RoomID(name), Section: section}
	s.past = history{rest: s.shown.rest}
	s.enter(s.room.RoomID, section)
	s.wanted = s.filter.WantsRoom(s.room.RoomID)
	s.state, s.timeline, s.after = s.state[:0], s.timeline[:0], s.after[:0]
}

// roomPart handles what of a room is not an event, up to the room's end.
func (s *syncScan) roomPart(place int, v *jsonscan.Value) error {
	live := s.room.Section == e2ee.SectionJoin || s.room.Section == e2ee.SectionLeave
	switch place {
	case atLimited:
		s.room.Limited = v.Kind == 't'
	case atTimelineEvents:
		s.hasEvents = true
		if live && s.wanted && v.Kind == '[' {
			return s.timelineEnd(v)
		}
	case atTimeline:
		if v.Kind != '{' {
			s.hasEvents = true // nothing can be added to it
		}
		if live && s.wanted && !s.hasEvents {
			s.hasEvents = true // the late events go here, not into another timeline
			return s.close(markTimelineEnd, levelPart, v)
		}
	case atRoom:
		return s.leaveRoom(live, v)
	}
	return nil
}

// timelineEnd marks the places in a list of events where others may be put: its front,
// unless its first event is marked, and its end.
func (s *syncScan) timelineEnd(v *jsonscan.Value) error {
	if v.Count == 0 {
		if err := s.put(mark{kind: markFront, start: v.Start + 1, end: v.Start + 1, sep: -1}); err != nil {
			return err
		}
	}
	back := mark{kind: markBack, start: v.End - 1, end: v.End - 1, sep: -1}
	marked := 0
	if s.list == v.Start+1 {
		marked = s.marked
	}
	if v.Count > marked {
		back.flags = flagBefore
	}
	return s.put(back)
}

func (s *syncScan) leaveRoom(live bool, v *jsonscan.Value) error {
	s.room.Changes = slices.Concat(s.state, s.timeline, s.after)
	s.room.Limited = s.room.Limited || s.leftOut
	if s.room.RoomID != "" {
		s.update.Rooms = append(s.update.Rooms, s.room)
	}
	s.past.from, s.past.to, s.past.room = v.Start, v.End, s.room.RoomID
	s.shown.add(s.past)
	var err error
	if !s.wanted {
		s.inRoom = false // what follows belongs to the section
		err = s.drop(levelSection, v)
	} else if live && !s.hasEvents {
		err = s.close(markRoomEnd, levelRoom, v)
	}
	s.inRoom = false
	return s.grow(len(s.room.RoomID)+64, err)
}

// end handles the end of an object that holds rooms.
func (s *syncScan) end(place int, section e2ee.Section, v *jsonscan.Value) error {
	switch {
	case place == atTop && v.Kind != '{':
		return errSyncBody
	case place == atTop:
		return s.close(markEnd, levelTop, v)
	case place == atRooms:
		return s.close(markRoomsEnd, levelRooms, v)
	case section == e2ee.SectionJoin:
		return s.close(markSectionEnd, levelSection, v)
	}
	return nil
}

// grow accounts for the memory of the update.
func (s *syncScan) grow(n int, err error) error {
	if err != nil {
		return err
	}
	return s.held.add(n)
}

// topLevel takes what is not in a room.
func (s *syncScan) topLevel(place int, v *jsonscan.Value) error {
	u := &s.update
	switch place {
	case atNextBatch:
		if v.Kind == '"' {
			u.NextBatch = string(jsonscan.Text(v.Raw))
		}
	case atToDevice:
		if v.Raw != nil && v.Kind == '{' {
			u.ToDevice = append(u.ToDevice, slices.Clone(v.Raw))
		}
	case atChanged:
		u.Changed = appendUser(u.Changed, v)
	case atLeft:
		u.Left = appendUser(u.Left, v)
	case atOneTimeKeys:
		var counts map[string]int
		if json.Unmarshal(v.Raw, &counts) == nil && counts != nil {
			u.OneTimeKeys = counts
		}
		return s.drop(levelTop, v)
	case atFallback:
		var types []string
		if json.Unmarshal(v.Raw, &types) == nil && types != nil && u.UnusedFallback == nil {
			u.UnusedFallback = types
		}
		return s.drop(levelTop, v)
	case atHidden:
		return s.drop(levelTop, v)
	}
	return s.grow(len(v.Raw), nil)
}

func appendUser(users []id.UserID, v *jsonscan.Value) []id.UserID {
	if user := appendText(nil, v); len(user) > 0 {
		users = append(users, id.UserID(user))
	}
	return users
}
