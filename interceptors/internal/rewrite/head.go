package rewrite

import (
	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/internal/jsonscan"
)

// Types of events that are treated in a way of their own.
const (
	typeEncryption = "m.room.encryption"
	typeEncrypted  = "m.room.encrypted"
	typeReaction   = "m.reaction"
	typeRedaction  = "m.room.redaction"
	typeMessage    = "m.room.message"
)

// head is what decisions need of an event. Of names that occur twice the last counts.
type head struct {
	typ            []byte // without escapes
	types          int    // how often there is a type
	stateKey       []byte // raw
	hasStateKey    bool   // there is a state key
	stringStateKey bool   // the state key is a string
	neverOpened    bool   // it is never opened
	sender         []byte
	eventID        []byte // where it is asked for
	membership     []byte // raw
	hasURL         bool
	bare           bool // a reaction with its relation only
}

// filtered returns what a filter looks at.
func (h *head) filtered() filter.Event {
	return filter.Event{Type: h.typ, Sender: h.sender, HasURL: h.hasURL}
}

func (h *head) reset() {
	*h = head{typ: h.typ[:0], stateKey: h.stateKey[:0], sender: h.sender[:0], eventID: h.eventID[:0], membership: h.membership[:0]}
}

// take stores a value that headGraph reported; ok is false for other values.
func (h *head) take(v *jsonscan.Value) (ok bool) {
	switch v.ID {
	case inType:
		h.typ = appendText(h.typ[:0], v)
		h.types++
	case inStateKey:
		h.stateKey, h.hasStateKey, h.stringStateKey = append(h.stateKey[:0], v.Raw...), true, v.Kind == '"'
	case inSender:
		h.sender = appendText(h.sender[:0], v)
	case inEventID:
		h.eventID = appendText(h.eventID[:0], v)
	case inMembership:
		h.membership = append(h.membership[:0], v.Raw...)
	case inURL, inFile:
		h.hasURL = true
	default:
		return false
	}
	return true
}

// maxIdentifier is the largest type or user ID that is read (255 bytes in the
// specification, each of which may be escaped).
const maxIdentifier = 6 * 255

// appendText appends the text of a string value; nothing when it is no string or too long.
func appendText(dst []byte, v *jsonscan.Value) []byte {
	if v.Kind != '"' || len(v.Raw) < 2 || len(v.Raw) > maxIdentifier {
		return dst
	}
	return append(dst, jsonscan.Text(v.Raw)...)
}

// readReaction reads the content of a reaction, which decides whether it is bare.
func (h *head) readReaction(event []byte) {
	h.bare = string(h.typ) == typeReaction && event != nil && e2ee.PlainReaction(event)
}

// openable reports whether an event of the timeline goes through Device.Open, in a room
// that is, or is not, known to be encrypted.
func (h *head) openable(encrypted bool) bool {
	if h.neverOpened || h.isState() || h.types == 0 {
		return false
	}
	if string(h.typ) == typeEncrypted {
		return true
	}
	return encrypted && h.shouldBeEncrypted()
}

// sealed reports whether an event of a timeline is encrypted.
func (h *head) sealed() bool { return !h.hasStateKey && string(h.typ) == typeEncrypted }

// isState reports whether an event is state and not also of a message's type: some clients
// look at the type alone.
func (h *head) isState() bool { return h.stringStateKey && !e2ee.MessageType(string(h.typ)) }

// shouldBeEncrypted reports whether a plain event is one that clients send encrypted in an
// encrypted room (requirements 19.5, 19.6, 20.1). If the type is ambiguous, it is. A
// reaction is if it has more than its relation.
func (h *head) shouldBeEncrypted() bool {
	if h.isState() {
		return false
	}
	switch string(h.typ) {
	case typeReaction:
		return h.types > 1 || !h.bare
	case typeRedaction:
		return h.types > 1
	}
	return true
}

// isRoomEncryption reports whether an event is the state that makes a room encrypted.
func (h *head) isRoomEncryption() bool {
	return string(h.typ) == typeEncryption && h.types == 1 && string(h.stateKey) == `""`
}

// isEphemeral reports whether something among events is not part of the room, such as typing.
func (h *head) isEphemeral() bool {
	switch string(h.typ) {
	case "m.typing", "m.receipt", "m.presence":
		return h.types == 1
	}
	return false
}
