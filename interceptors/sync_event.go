package interceptors

import (
	"encoding/json"
	"slices"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/jsonscan"
)

// event handles an event of any list, at its end, after its head was taken.
func (s *syncScan) event(place int, v *jsonscan.Value) error {
	s.examine(v)
	if s.inRoom && !s.wanted {
		return s.noteChange(place, v)
	}
	switch place {
	case atTimelineEvent:
		return s.timelineEvent(v)
	case atStateEvent, atStateAfterEvent:
		if err := s.noteChange(place, v); err != nil {
			return err
		}
		if s.imitates || s.hidesEncryption() || !s.filter.State().Passes(s.room.RoomID, s.head.filtered()) {
			return s.element(markDropEvent, 0, v)
		}
		return s.markKept(v, s.fieldsFlag())
	case atStrippedEvent:
		if s.hidesEncryption() {
			return s.element(markDropEvent, 0, v)
		}
	case atAccountEvent:
		if v.Raw != nil && v.Kind == '{' {
			s.update.AccountData = append(s.update.AccountData, slices.Clone(v.Raw))
		}
		if err := s.grow(len(v.Raw), nil); err != nil {
			return err
		}
		if !s.filter.OfAccountData().PassesType(s.head.typ) {
			return s.element(markDropEvent, 0, v)
		}
	}
	if s.imitates {
		return s.element(markDropEvent, 0, v)
	}
	return s.markKept(v, 0)
}

func (s *syncScan) fieldsFlag() uint64 {
	if s.filter != nil && s.filter.Tree != nil {
		return flagFields
	}
	return 0
}

func (s *syncScan) timelineEvent(v *jsonscan.Value) error {
	if err := s.noteChange(atTimelineEvent, v); err != nil {
		return err
	}
	kind, flags := s.timelineMark(v)
	switch {
	case kind == markDropEvent:
	case flags&flagSealed == 0 && !s.filter.Timeline().Passes(s.room.RoomID, s.head.filtered()):
		kind, flags = markDropEvent, 0
	default: // the filter applies to the decrypted event
		flags |= s.fieldsFlag()
	}
	stands := uint64(positionAfter) << positionShift
	touched := kind == markDropEvent || flags != 0
	if v.Index == 0 {
		front := mark{kind: markFront, flags: flagAfter, start: v.Inside, end: v.Inside, sep: -1}
		if touched {
			front.flags |= flagTouched
		}
		if err := s.put(front); err != nil {
			return err
		}
	}
	if !touched {
		return nil
	}
	return s.element(kind, flags|stands, v)
}

// noteChange records a state event that matters to encryption. Stripped state never counts
// (requirement 20.4).
func (s *syncScan) noteChange(place int, v *jsonscan.Value) error {
	var to *[]e2ee.StateChange
	switch place {
	case atStateEvent:
		to = &s.state
	case atTimelineEvent:
		to = &s.timeline
	case atStateAfterEvent:
		to = &s.after
	default:
		return nil
	}
	if !s.head.hasStateKey {
		return nil
	}
	s.noteOrder(place, v)
	var change e2ee.StateChange
	switch string(s.head.typ) {
	case typeMember:
		change.Type, change.Content = typeMember, membershipContent(s.head.membership)
		if string(s.head.membership) == `"join"` {
			if s.joins++; s.joins > maxJoins {
				s.leftOut = true
				return nil
			}
		}
	case typeEncryption:
		change.Type, change.Content = typeEncryption, contentOf(v.Raw)
	case typeVisibility:
		change.Type, change.Content = typeVisibility, contentOf(v.Raw)
	default:
		return nil
	}
	change.StateKey = string(jsonscan.Text(s.head.stateKey))
	*to = append(*to, change)
	return s.grow(len(change.StateKey)+len(change.Content)+64, nil)
}

// noteOrder records what shows on which side of the room's encryption its messages stand.
func (s *syncScan) noteOrder(place int, v *jsonscan.Value) {
	switch {
	case place == atStateAfterEvent:
	case s.head.isRoomEncryption():
		at := positionAfter
		if place == atStateEvent {
			at = positionStart
		}
		s.past.addEncryption(at, v.Start, replaces(v.Raw))
	case string(s.head.typ) == typeMember && string(s.head.membership) == `"join"` && string(jsonscan.Text(s.head.stateKey)) == string(s.who):
		s.past.rest = e2ee.OrderUnknown // events that come with a join may be from before it
	}
}

// replaces reports whether a state event replaced another.
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
