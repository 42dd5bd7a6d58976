package interceptors

import (
	"strings"

	"e2ee-proxy/internal/jsonscan"
)

// Where events stand in the answers of endpoints, as data: one family for each shape of a
// body. An endpoint that is not here returns no events, or passes.

// placeKind is the treatment of the events of a place.
type placeKind int

const (
	// placeTimeline are messages and state as they were sent: they are opened, judged and
	// marked.
	placeTimeline placeKind = iota + 1
	// placeMixed is a timeline with typing notices and the like in it.
	placeMixed
	// placeState are state events, which nobody encrypts.
	placeState
)

// eventPlace is a place of events. A step of its path is the name of a member, * for each
// element of an array, or {} for each member of an object with room IDs as names. A path
// that does not end with * or leads to the whole body is one event alone: it cannot be left
// out.
type eventPlace struct {
	path string
	kind placeKind
	// position is the part of their room's history to which the events belong.
	position position
}

// roomSource is where the room ID of events stands.
type roomSource int

const (
	// roomOfPath is the room in the request's path.
	roomOfPath roomSource = iota + 1
	// roomOfEvent is the room_id of each event.
	roomOfEvent
	// roomOfEntry is the room_id of their entry.
	roomOfEntry
)

// family is the shape of an endpoint's answer.
type family struct {
	room   roomSource
	places []eventPlace
	// entry is the path of the objects with a history of their own each; empty is the whole
	// body. With [roomOfEntry] their room_id is the room.
	entry string
	// paged reports whether the history goes on in the direction of the query's dir, from the
	// query's from to the answer's end.
	paged bool
}

// Names of the handlers of reads that [Handlers] returns.
const (
	Messages        = "messages"          // GET rooms/{roomId}/messages
	EventContext    = "context"           // GET rooms/{roomId}/context/{eventId}
	GetEvent        = "event"             // GET rooms/{roomId}/event/{eventId}
	Relations       = "relations"         // GET rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]]
	Threads         = "threads"           // GET rooms/{roomId}/threads
	RoomInitialSync = "room.initial_sync" // GET rooms/{roomId}/initialSync
	Members         = "members"           // GET rooms/{roomId}/members
	Hierarchy       = "hierarchy"         // GET rooms/{roomId}/hierarchy
	Events          = "events"            // GET events
	EventsGet       = "events.get"        // GET events/{eventId}
	InitialSync     = "initial_sync"      // GET initialSync
	Notifications   = "notifications"     // GET notifications
)

// families returns all of them. Those of a room's state are in stateread.go.
func families() map[string]family {
	const results = "search_categories/room_events/results/*"
	return map[string]family{
		Messages: {room: roomOfPath, paged: true, places: []eventPlace{
			{"chunk/*", placeTimeline, positionPaged}, {"state/*", placeState, positionNone},
		}},
		EventContext: {room: roomOfPath, places: []eventPlace{
			{"events_before/*", placeTimeline, positionBefore}, {"event", placeTimeline, positionAt},
			{"events_after/*", placeTimeline, positionAfter}, {"state/*", placeState, positionNone},
		}},
		GetEvent: {room: roomOfPath, places: []eventPlace{{"", placeTimeline, positionNone}}},
		Relations: {room: roomOfPath, places: []eventPlace{
			{"chunk/*", placeTimeline, positionNone}, {"original_event", placeTimeline, positionNone},
		}},
		Threads: {room: roomOfPath, places: []eventPlace{{"chunk/*", placeTimeline, positionNone}}},
		RoomInitialSync: {room: roomOfPath, places: []eventPlace{
			{"messages/chunk/*", placeTimeline, positionAfter}, {"state/*", placeState, positionNone},
		}},
		Members:   {room: roomOfPath, places: []eventPlace{{"chunk/*", placeState, positionNone}}},
		Hierarchy: {room: roomOfPath, places: []eventPlace{{"rooms/*/children_state/*", placeState, positionNone}}},
		Events:    {room: roomOfEvent, places: []eventPlace{{"chunk/*", placeMixed, positionNone}}},
		EventsGet: {room: roomOfEvent, places: []eventPlace{{"", placeTimeline, positionNone}}},
		InitialSync: {room: roomOfEntry, entry: "rooms/*", places: []eventPlace{
			{"rooms/*/messages/chunk/*", placeTimeline, positionAfter}, {"rooms/*/state/*", placeState, positionNone},
			{"rooms/*/invite", placeState, positionNone},
		}},
		Notifications: {room: roomOfEntry, entry: "notifications/*", places: []eventPlace{
			{"notifications/*/event", placeTimeline, positionNone},
		}},
		Search: {room: roomOfEvent, entry: results, places: []eventPlace{
			{results + "/context/events_before/*", placeTimeline, positionBefore}, {results + "/result", placeTimeline, positionAt},
			{results + "/context/events_after/*", placeTimeline, positionAfter},
			{"search_categories/room_events/state/{}/*", placeState, positionNone},
		}},
	}
}

func (p *eventPlace) alone() bool { return !strings.HasSuffix("/"+p.path, "/*") }

// IDs of values that a scan of a read reports. The place, or the level of an object with
// members of the proxy's, is added to them.
const (
	atPlace   = 1 << 8
	atEntry   = 2 << 8
	atEntryID = 3 << 8
	atPageEnd = 4 << 8
	atMember  = 5 << 8
	atBody    = 6 << 8
	readMask  = 1<<8 - 1
)

// graph names everything in a body of the family that is looked at.
func (f *family) graph() *jsonscan.Node {
	top := jsonscan.NewNode()
	seen := map[*jsonscan.Node]bool{}
	for i := range f.places {
		at, steps := top, stepsOf(f.places[i].path)
		for level, step := range steps {
			if step != jsonscan.Elem() && !seen[at] {
				seen[at] = true
				at.Down(jsonscan.Prefix(prefixOurs)).Report(atMember+level, false)
			}
			at = at.Down(step)
		}
		head := headGraph(at).Report(atPlace+i, true)
		head.Down(jsonscan.Key("room_id")).Report(inRoomID, true)
		head.Down(jsonscan.Key("unsigned"), jsonscan.Key("replaces_state")).Report(inReplaces, false)
		head.Down(jsonscan.Key("unsigned"), jsonscan.Key("prev_content")).Report(inReplaces, false)
		head.Down(jsonscan.Key("prev_content")).Report(inReplaces, false)
		head.Down(jsonscan.Key("replaces_state")).Report(inReplaces, false)
	}
	if f.entry != "" {
		entry := top.Down(stepsOf(f.entry)...).Report(atEntry, false)
		entry.Down(jsonscan.Key("room_id")).Report(atEntryID, true)
	}
	if f.paged {
		top.Down(jsonscan.Key("end")).Report(atPageEnd, true)
	}
	if f.places[0].path != "" {
		top.Report(atBody, false)
	}
	return top
}

func stepsOf(path string) []jsonscan.Step {
	if path == "" {
		return nil
	}
	var steps []jsonscan.Step
	for name := range strings.SplitSeq(path, "/") {
		switch name {
		case "*":
			steps = append(steps, jsonscan.Elem())
		case "{}":
			steps = append(steps, jsonscan.Any())
		default:
			steps = append(steps, jsonscan.Key(name))
		}
	}
	return steps
}
