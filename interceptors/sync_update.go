package interceptors

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/rewrite"
	"e2ee-proxy/internal/jsonscan"
)

// While a sync response is read, what matters to encryption is taken from it.

// maxUpdate is the most that is taken from one response, in bytes.
const maxUpdate = 64 << 20

// maxJoins is the most joins that are taken from one response. A room with further ones is
// reported as limited, so that the engine asks for its members when it needs them;
// departures are always reported.
const maxJoins = 10_000

// maxUserID is the largest user ID that is read, in bytes of JSON (255 in the specification,
// each of which may be escaped).
const maxUserID = 6 * 255

// errSyncBody is a response that is not a sync response.
var errSyncBody = errors.New("not a sync response")

// syncUpdate takes what matters to encryption from a response.
type syncUpdate struct {
	e2ee.SyncUpdate
	parts []partOfState // of the shape's places
	who   id.UserID
	held  heldUpdate
	joins int // number of joins in the update

	// The current room.
	live      bool // its timeline may get further events
	hasEvents bool // its timeline has events
	leftOut   bool // some of its joins were left out
	room      e2ee.RoomUpdate
	state     []e2ee.StateChange
	timeline  []e2ee.StateChange
	after     []e2ee.StateChange
	keys      texts // of those

	unread unreadUpdate
}

func (u *syncUpdate) hooks() rewrite.Hooks {
	return rewrite.Hooks{Enter: u.enter, Event: u.event, Value: u.value, Leave: u.leave}
}

func (u *syncUpdate) enter(entry int, room id.RoomID, wanted bool) {
	section := syncSections[entry]
	u.live = section.live && wanted
	u.hasEvents, u.leftOut = false, false
	u.room = e2ee.RoomUpdate{RoomID: room, Section: section.section}
	if e2ee.IsNoticeName(string(room)) { // an imitation, of which nothing is learned
		u.room.RoomID = ""
	}
	u.state, u.timeline, u.after = u.state[:0], u.timeline[:0], u.after[:0]
	u.unread.enter(room, u.live && section.section == e2ee.SectionJoin)
}

func (u *syncUpdate) leave(f *rewrite.Found) error {
	u.room.Changes = slices.Concat(u.state, u.timeline, u.after)
	u.room.Limited = u.room.Limited || u.leftOut
	if u.room.RoomID != "" && u.room.Section != 0 {
		u.Rooms = append(u.Rooms, u.room)
	}
	size := u.unread.leave(&u.Unread, u.room.Limited)
	switch {
	case u.live && !u.hasEvents:
		if err := f.Extend(atRoom); err != nil {
			return err
		}
	case size > 0:
		if err := f.Extend(atRoomEnd); err != nil {
			return err
		}
	}
	return u.held.add(size + len(u.room.RoomID) + 64)
}

// value takes what is not an event, and marks where something may be added or must go.
func (u *syncUpdate) value(f *rewrite.Found) error {
	switch f.Tag {
	case atTop:
		if f.Kind != '{' {
			return rewrite.Unreadable(errSyncBody)
		}
		return f.Extend(atTop)
	case atRooms, atSection, atLeaveSection:
		return f.Extend(f.Tag)
	case atLimited:
		u.room.Limited = f.Kind == 't'
		return nil
	case atTimeline, atTimelineEvents:
		return u.timelineEnd(f)
	case atUnread, atUnreadThreads, atMemberCount:
		return u.unread.value(f)
	}
	return u.topLevel(f)
}

// timelineEnd marks where events may be added to a timeline.
func (u *syncUpdate) timelineEnd(f *rewrite.Found) error {
	if f.Tag == atTimelineEvents {
		u.hasEvents = true
		if u.live && f.Kind == '[' {
			return f.ExtendList()
		}
		return nil
	}
	if f.Kind != '{' {
		u.hasEvents = true // nothing can be added to it
	}
	if u.live && !u.hasEvents {
		u.hasEvents = true // the late events go here, not into another timeline
		return f.Extend(atTimeline)
	}
	return nil
}

// topLevel takes what is not in a room.
func (u *syncUpdate) topLevel(f *rewrite.Found) error {
	switch f.Tag {
	case atNextBatch:
		if f.Kind == '"' {
			u.NextBatch = string(jsonscan.Text(f.Raw))
		}
	case atToDevice:
		if f.Raw != nil && f.Kind == '{' {
			u.ToDevice = append(u.ToDevice, slices.Clone(f.Raw))
		}
	case atChanged:
		u.Changed = appendUser(u.Changed, f)
	case atLeft:
		u.Left = appendUser(u.Left, f)
	case atOneTimeKeys:
		var counts map[string]int
		if jsonv2.Unmarshal(f.Raw, &counts) == nil && counts != nil {
			u.OneTimeKeys = counts
		}
		return f.Remove()
	case atFallback:
		var types []string
		if jsonv2.Unmarshal(f.Raw, &types) == nil && types != nil && u.UnusedFallback == nil {
			u.UnusedFallback = types
		}
		return f.Remove()
	case atHidden:
		return f.Remove()
	}
	return u.held.add(len(f.Raw))
}

func appendUser(users []id.UserID, f *rewrite.Found) []id.UserID {
	if user := textOf(f); user != "" && len(f.Raw) <= maxUserID {
		users = append(users, id.UserID(user))
	}
	return users
}

// textsSize is how many bytes of texts are kept in one piece. As long as one of them is in use
// the piece is.
const textsSize = 512

// texts keeps many short texts in few pieces of memory.
type texts struct{ piece *strings.Builder }

func (t *texts) keep(text []byte) string {
	if t.piece == nil || t.piece.Cap()-t.piece.Len() < len(text) {
		t.piece = new(strings.Builder)
		t.piece.Grow(max(textsSize, len(text)))
	}
	from := t.piece.Len()
	t.piece.Write(text)
	return t.piece.String()[from:]
}

// event takes account data, and state that matters to encryption. Stripped state never counts
// (requirement 20.4).
func (u *syncUpdate) event(e *rewrite.Event) error {
	u.unread.event(e, u.parts[e.Place], u.who)
	if e.Place == atAccountData {
		if string(e.Type) == typePushRules && e.Raw != nil {
			u.Unread.Rules = contentOf(e.Raw)
		}
		if e.Raw != nil && e.Object {
			u.AccountData = append(u.AccountData, slices.Clone(e.Raw))
		}
		return u.held.add(len(e.Raw))
	}
	var to *[]e2ee.StateChange
	part := u.parts[e.Place]
	switch part {
	case stateBefore:
		to = &u.state
	case stateTimeline:
		to = &u.timeline
	case stateAfter:
		to = &u.after
	case stateInvite:
		u.invitedBy(e)
		return nil
	default:
		return nil
	}
	if e.StateKey == nil {
		return u.verification(e, part)
	}
	var change e2ee.StateChange
	switch string(e.Type) {
	case typeMember:
		change.Type, change.Content = typeMember, membershipContent(e.Membership)
		if string(e.Membership) == `"join"` {
			if part != stateAfter && string(jsonscan.Text(e.StateKey)) == string(u.who) {
				e.Unordered() // events that come with a join may be from before it
			}
			if u.joins++; u.joins > maxJoins {
				u.leftOut = true
				return nil
			}
		}
	case typeEncryption:
		change.Type, change.Content = typeEncryption, contentOf(e.Raw)
	case typeVisibility:
		change.Type, change.Content = typeVisibility, contentOf(e.Raw)
	default:
		return nil
	}
	change.StateKey = u.keys.keep(jsonscan.Text(e.StateKey))
	*to = append(*to, change)
	return u.held.add(len(change.StateKey) + len(change.Content) + 64)
}

// verification takes what may belong to a verification in the room.
func (u *syncUpdate) verification(e *rewrite.Event, part partOfState) error {
	if part != stateTimeline || u.room.Section != e2ee.SectionJoin || e.Raw == nil || !mayVerify(e) {
		return nil
	}
	u.Verifying = append(u.Verifying, e2ee.RoomEvent{RoomID: u.room.RoomID, Event: slices.Clone(e.Raw)})
	return u.held.add(len(e.Raw))
}

// mayVerify reports whether an event may belong to a verification: of a message its msgtype says
// so, which was noted, unless something stands there twice.
func mayVerify(e *rewrite.Event) bool {
	if string(e.Type) == typeMessage && !e.Repeated() {
		if said := e.Inside(insideMsgtype); said.Kind != '"' || len(said.Raw) < len(msgtypeVerification) || string(jsonscan.Text(said.Raw)) != msgtypeVerification {
			return false
		}
	}
	return e2ee.MaybeVerification(string(e.Type), e.Raw)
}

// invitedBy takes who invited the own user: the one thing that stripped state is read for. It
// says only whose bundle of the room's history is taken after a join.
func (u *syncUpdate) invitedBy(e *rewrite.Event) {
	if u.room.Section != e2ee.SectionInvite || string(e.Type) != typeMember || string(e.Membership) != `"invite"` ||
		string(jsonscan.Text(e.StateKey)) != string(u.who) {
		return
	}
	var said struct {
		Sender id.UserID `json:"sender"`
	}
	if e.Raw != nil && jsonv2.Unmarshal(e.Raw, &said) == nil {
		u.room.Inviter = said.Sender
	}
}

// membershipContent returns a member's content with only the membership. There may be very
// many, so those that the specification names share their memory.
func membershipContent(raw []byte) json.RawMessage {
	switch string(raw) {
	case `"join"`:
		return contentJoin
	case `"leave"`:
		return contentLeave
	case `"invite"`:
		return contentInvite
	case `"ban"`:
		return contentBan
	case `"knock"`:
		return contentKnock
	case "":
		return contentNone
	}
	return slices.Concat([]byte(`{"membership":`), raw, []byte(`}`))
}

// Contents that are shared and never written to.
var (
	contentNone   = json.RawMessage(`{}`)
	contentJoin   = json.RawMessage(`{"membership":"join"}`)
	contentLeave  = json.RawMessage(`{"membership":"leave"}`)
	contentInvite = json.RawMessage(`{"membership":"invite"}`)
	contentBan    = json.RawMessage(`{"membership":"ban"}`)
	contentKnock  = json.RawMessage(`{"membership":"knock"}`)
)

// contentOf returns the content of an event; an empty one when it cannot be read, which for
// m.room.encryption means an unknown algorithm.
func contentOf(event []byte) json.RawMessage {
	var e struct {
		Content jsontext.Value `json:"content"`
	}
	if jsonv2.Unmarshal(event, &e) != nil || e.Content.Kind() != jsontext.KindBeginObject {
		return contentNone
	}
	return json.RawMessage(e.Content.Clone())
}
