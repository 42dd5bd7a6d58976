package interceptors

import (
	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/rewrite"
)

// Where events stand in the answer to GET /sync, and what else is looked at there. Events are
// expected in any list called events, at the top level or of a room, and those of rooms in any
// section, so that what nobody knows is cleaned, and judged, too.

// Tags of values. Those of the ends of objects are also what is added there, see sync_added.go.
const (
	atTop = iota
	atNextBatch
	atToDevice
	atChanged
	atLeft
	atOneTimeKeys
	atFallback
	atHidden // a member of the top level that the client must not see
	atRooms
	atSection
	atLeaveSection
	atRoom
	atTimeline
	atTimelineEvents
	atLimited
	atRoomEnd // of a room to whose timeline nothing is added there
	atUnread
	atUnreadThreads
	atMemberCount
)

// syncSections are the sections of rooms, in the order of the shape's entries. What is in one
// that is not known is nothing that the engine learns from.
var syncSections = [...]struct {
	name    string
	section e2ee.Section
	live    bool // its rooms' timelines may get further events
}{
	{"join", e2ee.SectionJoin, true}, {"invite", e2ee.SectionInvite, false},
	{"knock", e2ee.SectionKnock, false}, {"leave", e2ee.SectionLeave, true}, {"{}", 0, false},
}

// partOfState says which part of a room's state the events of a place are; zero: none that
// counts for the engine.
type partOfState int

const (
	stateBefore   partOfState = iota + 1 // the state before the timeline
	stateTimeline                        // changes in the timeline
	stateAfter                           // the state behind it
	stateInvite                          // what an invited user is shown
)

// syncParts are the lists of events of a room.
var syncParts = [...]struct {
	name  string
	place rewrite.Place
	state partOfState
}{
	{"timeline", rewrite.Place{Kind: rewrite.Timeline, Position: rewrite.After, Grows: true}, stateTimeline},
	{"state", rewrite.Place{Kind: rewrite.State, Position: rewrite.Start}, stateBefore},
	{"state_after", rewrite.Place{Kind: rewrite.State}, stateAfter},
	{"org.matrix.msc4222.state_after", rewrite.Place{Kind: rewrite.State}, stateAfter},
	{"invite_state", rewrite.Place{Kind: rewrite.Stripped}, stateInvite},
	{"knock_state", rewrite.Place{Kind: rewrite.Stripped}, 0},
	{"account_data", rewrite.Place{}, 0},
	{"ephemeral", rewrite.Place{Kind: rewrite.Mixed}, 0},
	{"sticky", rewrite.Place{Kind: rewrite.Mixed}, 0}, // MSC4354
	{"msc4354_sticky", rewrite.Place{Kind: rewrite.Mixed}, 0},
	{"{}", rewrite.Place{Kind: rewrite.Mixed}, 0},
}

// atAccountData is the index of the user's account data among the places.
const atAccountData = 0

// insideMsgtype is the one of the paths inside events that is not for the numbers of unread
// messages.
const insideMsgtype = len(unreadPaths)

func syncInside() []string {
	return append(unreadPaths[:len(unreadPaths):len(unreadPaths)], "content/msgtype")
}

// syncShape returns the shape, and for each of its places which part of a room's state it is.
func syncShape() (rewrite.Shape, []partOfState) {
	s := rewrite.Shape{
		Room: rewrite.RoomOfName, Inside: syncInside(),
		Places: []rewrite.Place{
			{Path: "account_data/events/*", Kind: rewrite.AccountData}, {Path: "{}/events/*"},
		},
		Values: []rewrite.Value{
			{Path: "", Tag: atTop},
			{Path: "next_batch", Tag: atNextBatch, Keep: true},
			{Path: "to_device", Tag: atHidden}, {Path: "to_device/events/*", Tag: atToDevice, Keep: true},
			{Path: "device_lists", Tag: atHidden},
			{Path: "device_lists/changed/*", Tag: atChanged, Keep: true}, {Path: "device_lists/left/*", Tag: atLeft, Keep: true},
			{Path: "device_one_time_keys_count", Tag: atOneTimeKeys, Keep: true},
			{Path: "device_unused_fallback_key_types", Tag: atFallback, Keep: true},
			{Path: "org.matrix.msc2732.device_unused_fallback_key_types", Tag: atFallback, Keep: true},
			{Path: "rooms", Tag: atRooms}, {Path: "rooms/join", Tag: atSection}, {Path: "rooms/leave", Tag: atLeaveSection},
		},
	}
	s.Values = append(s.Values,
		rewrite.Value{Path: "rooms/join/{}/unread_notifications", Tag: atUnread, Keep: true},
		rewrite.Value{Path: "rooms/join/{}/unread_thread_notifications", Tag: atUnreadThreads, Keep: true},
		rewrite.Value{Path: "rooms/join/{}/summary/m.joined_member_count", Tag: atMemberCount, Keep: true},
	)
	state := make([]partOfState, len(s.Places))
	for _, section := range syncSections {
		room := "rooms/" + section.name + "/{}"
		s.Entries = append(s.Entries, room)
		for _, part := range syncParts {
			place := part.place
			place.Path = room + "/" + part.name + "/events/*"
			if section.section == 0 {
				part.state = 0
			}
			s.Places, state = append(s.Places, place), append(state, part.state)
		}
		s.Values = append(
			s.Values,
			rewrite.Value{Path: room + "/timeline", Tag: atTimeline}, rewrite.Value{Path: room + "/timeline/events", Tag: atTimelineEvents},
			rewrite.Value{Path: room + "/timeline/limited", Tag: atLimited, Keep: true},
		)
	}
	return s, state
}
