package bundled

import (
	"encoding/json"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Which events may stand where they are bundled.

// Event is what is known of an event.
type Event struct {
	// Raw is the event as it came, without what only the proxy may say; Shown is what the client
	// is shown of it, without regard to what stands in it.
	Raw, Shown []byte
	// Room is the room that it is in; empty when that is not known.
	Room string
	// Reason reports whether it may say why another was redacted: a redaction, or state such as
	// a ban (MSC4293).
	Reason bool
	// Sealed reports whether it came encrypted, Decrypted whether Shown is its clear text.
	Sealed, Decrypted bool
	// MayBeClear reports whether it may be in clear: its room is plain, or it is older than the
	// encryption.
	MayBeClear bool
}

// parsed is what decides whether an event may stand where it is bundled.
type parsed struct {
	Type     string         `json:"type"`
	Sender   string         `json:"sender"`
	EventID  string         `json:"event_id"`
	RoomID   string         `json:"room_id"`
	StateKey jsontext.Value `json:"state_key"`
	Content  *struct {
		New     jsontext.Value `json:"m.new_content"`
		Relates struct {
			Type    string `json:"rel_type"`
			EventID string `json:"event_id"`
		} `json:"m.relates_to"`
	} `json:"content"`
}

// Holds reports whether an event is what its place in another says.
func (n *Nested) Holds(event, of *Event) bool {
	var child, parent parsed
	switch n.kind {
	case aCount:
		return true
	case aReason:
		return event.Reason
	case anEdit:
		return jsonv2.Unmarshal(event.Shown, &child) == nil && jsonv2.Unmarshal(of.Shown, &parent) == nil &&
			child.inRoomOf(&parent, of.Room) && asSecret(event, of) && child.edits(&parent)
	case aRelated, aReference, anUnknown:
		// The relation in clear counts, also of a message that is held back.
		return jsonv2.Unmarshal(event.Raw, &child) == nil && jsonv2.Unmarshal(of.Raw, &parent) == nil &&
			child.inRoomOf(&parent, of.Room) && (n.kind == aReference && child.isName() || child.relates(n.relation, &parent))
	case aContent, aStripped, aRelation:
	}
	return false
}

// asSecret reports whether an edit is as encrypted as its original: both could be decrypted, or
// both may be in clear.
func asSecret(edit, original *Event) bool {
	if edit.Sealed || original.Sealed {
		return edit.Sealed && original.Sealed && edit.Decrypted && original.Decrypted
	}
	return original.MayBeClear
}

// inRoomOf reports whether an event can be in the room of another.
func (e *parsed) inRoomOf(of *parsed, room string) bool {
	if room == "" {
		room = of.RoomID
	}
	return e.RoomID == "" || room == "" || e.RoomID == room
}

// relates reports whether an event says that it has a relation to another.
func (e *parsed) relates(relation string, to *parsed) bool {
	return e.Content != nil && relationName(e.Content.Relates.Type) == relationName(relation) &&
		to.EventID != "" && e.Content.Relates.EventID == to.EventID && e.EventID != to.EventID
}

// relationName returns the name of a relation; that of threads had another one before MSC3440
// was accepted.
func relationName(name string) string {
	if name == "io.element.thread" {
		return "m.thread"
	}
	return name
}

// edits reports whether an event is an edit of another, as both are shown.
func (e *parsed) edits(original *parsed) bool {
	return e.relates(relReplace, original) && e.Content.New.Kind() == jsontext.KindBeginObject && e.EventID != "" &&
		e.Sender != "" && e.Sender == original.Sender &&
		e.Type != "" && e.Type == original.Type && e.StateKey == nil && original.StateKey == nil &&
		(original.Content == nil || original.Content.Relates.Type != relReplace)
}

// isName reports whether something names an event and has nothing that could be shown.
func (e *parsed) isName() bool { return e.Type == "" && e.Content == nil }

// referenceTo returns what is left of an event where its ID is enough.
func referenceTo(event []byte) []byte {
	var e struct {
		EventID string `json:"event_id"`
	}
	if jsonv2.Unmarshal(event, &e) != nil || e.EventID == "" {
		return []byte(`{}`)
	}
	out, err := json.Marshal(e)
	if err != nil { // it always marshals
		return []byte(`{}`)
	}
	return out
}
