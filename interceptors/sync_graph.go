package interceptors

import (
	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/jsonscan"
)

// Places in a sync body, above those inside an event. The section of the room and, for
// members of the proxy's, the level are in the bits above.
const (
	atTop = iota + 32
	atNextBatch
	atToDevice
	atChanged
	atLeft
	atOneTimeKeys
	atFallback
	atHidden // a member of the top level that the client must not see
	atAccountEvent
	atRooms
	atSection
	atRoom
	atTimeline
	atLimited
	atTimelineEvents
	atTimelineEvent
	atStateEvent
	atStateAfterEvent
	atStrippedEvent
	atOtherEvent
	atOurs
)

// Levels of objects that may have members of the proxy's.
const (
	levelTop = iota
	levelRooms
	levelSection
	levelRoom
	levelPart
	_ // answers to reads are nested deeper
	_
	_
	levels
)

const (
	sectionShift = 8
	levelShift   = 12
	placeMask    = 1<<sectionShift - 1
	sectionMask  = 1<<(levelShift-sectionShift) - 1
)

func placeIn(place int, section e2ee.Section) int { return place | int(section)<<sectionShift }

// sections are the names of the sections of rooms.
var sections = [...]struct {
	name    string
	section e2ee.Section
}{
	{"join", e2ee.SectionJoin}, {"invite", e2ee.SectionInvite},
	{"knock", e2ee.SectionKnock}, {"leave", e2ee.SectionLeave},
}

// syncGraph names everything in a sync body that is looked at. Events are expected in any
// list called events, at the top level or of a room, so that unknown lists are cleaned too.
// head adds what is needed of an event to its node.
func syncGraph(head func(event *jsonscan.Node) *jsonscan.Node) *jsonscan.Node {
	g := graphMaker{head}
	key, elem := jsonscan.Key, jsonscan.Elem
	top := jsonscan.NewNode().Report(atTop, false)
	ours(top, levelTop, 0)
	top.Down(key("next_batch")).Report(atNextBatch, true)
	top.Down(key("to_device")).Report(atHidden, false).Down(key("events"), elem()).Report(atToDevice, true)
	lists := top.Down(key("device_lists")).Report(atHidden, false)
	lists.Down(key("changed"), elem()).Report(atChanged, true)
	lists.Down(key("left"), elem()).Report(atLeft, true)
	top.Down(key("device_one_time_keys_count")).Report(atOneTimeKeys, true)
	top.Down(key("device_unused_fallback_key_types")).Report(atFallback, true)
	top.Down(key("org.matrix.msc2732.device_unused_fallback_key_types")).Report(atFallback, true)
	for place, part := range map[int]*jsonscan.Node{
		atAccountEvent: top.Down(key("account_data")), atOtherEvent: top.Down(jsonscan.Any()),
	} {
		ours(part, levelPart, 0)
		g.events(part, place, 0)
	}

	rooms := top.Down(key("rooms")).Report(atRooms, false)
	ours(rooms, levelRooms, 0)
	other := rooms.Down(jsonscan.Any()) // a section that is not known
	ours(other, levelSection, 0)
	ours(other.Down(jsonscan.Any()), levelRoom, 0)
	ours(other.Down(jsonscan.Any(), jsonscan.Any()), levelPart, 0)
	g.events(other.Down(jsonscan.Any(), jsonscan.Any()), atOtherEvent, 0)
	for _, s := range sections {
		section := rooms.Down(key(s.name)).Report(placeIn(atSection, s.section), false)
		ours(section, levelSection, s.section)
		g.room(section.Down(jsonscan.Any()), s.section)
	}
	return top
}

func (g graphMaker) room(room *jsonscan.Node, section e2ee.Section) {
	room.Report(placeIn(atRoom, section), false)
	ours(room, levelRoom, section)
	timeline := room.Down(jsonscan.Key("timeline")).Report(placeIn(atTimeline, section), false)
	timeline.Down(jsonscan.Key("limited")).Report(placeIn(atLimited, section), true)
	timeline.Down(jsonscan.Key("events")).Report(placeIn(atTimelineEvents, section), false)
	for name, place := range map[string]int{
		"timeline": atTimelineEvent, "state": atStateEvent,
		"state_after": atStateAfterEvent, "org.matrix.msc4222.state_after": atStateAfterEvent,
		"invite_state": atStrippedEvent, "knock_state": atStrippedEvent,
	} {
		part := room.Down(jsonscan.Key(name))
		ours(part, levelPart, section)
		g.events(part, place, section)
	}
	other := room.Down(jsonscan.Any())
	ours(other, levelPart, section)
	g.events(other, atOtherEvent, section)
}

// graphMaker builds the graph of a sync.
type graphMaker struct {
	head func(event *jsonscan.Node) *jsonscan.Node
}

// events adds the elements of a part's list of events to the graph.
func (g graphMaker) events(part *jsonscan.Node, place int, section e2ee.Section) {
	event := part.Down(jsonscan.Key("events"), jsonscan.Elem())
	g.head(event).Report(placeIn(place, section), true)
}

func ours(object *jsonscan.Node, level int, section e2ee.Section) {
	object.Down(jsonscan.Prefix(prefixOurs)).Report(placeIn(atOurs, section)|level<<levelShift, false)
}
