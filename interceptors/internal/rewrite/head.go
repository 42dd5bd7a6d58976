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

// head is what decisions need of an event. Of names that occur twice the last counts. It is valid
// as long as the event is.
type head struct {
	typ            []byte // without escapes
	types          int    // how often there is a type
	stateKey       []byte // raw
	hasStateKey    bool   // there is a state key
	stringStateKey bool   // the state key is a string
	neverOpened    bool   // it is never opened
	sender         []byte
	eventID        []byte
	roomID         []byte
	membership     []byte // raw, of state
	hasURL         bool
	bare           bool // a reaction with its relation only
}

// filtered returns what a filter looks at.
func (h *head) filtered() filter.Event {
	return filter.Event{Type: h.typ, Sender: h.sender, HasURL: h.hasURL}
}

// read reads what was noted of an event; of what only filters and some shapes look at, all only
// if that is asked for.
func (h *head) read(v *jsonscan.Value, all bool) {
	*h = head{typ: peekText(v, inType), types: v.Times(inType)}
	if kind, key := v.Peek(inStateKey); kind != 0 {
		h.hasStateKey, h.stringStateKey, h.stateKey = true, kind == '"', key
		if key == nil { // too large
			h.stateKey = []byte{}
		}
		_, h.membership = v.Peek(inMembership)
	}
	if all {
		h.sender, h.eventID, h.roomID = peekText(v, inSender), peekText(v, inEventID), peekText(v, inRoomID)
		h.hasURL = v.Times(inURL)+v.Times(inFile) > 0
	}
}

// peekText is [textOf] what was noted.
func peekText(v *jsonscan.Value, n int) []byte {
	kind, raw := v.Peek(n)
	return textOf(kind, raw)
}

// maxIdentifier is the largest type or user ID that is read (255 bytes in the
// specification, each of which may be escaped).
const maxIdentifier = 6 * 255

// textOf returns the text of a string; nil when it is no string or too long.
func textOf(kind byte, raw []byte) []byte {
	if kind != '"' || len(raw) < 2 || len(raw) > maxIdentifier {
		return nil
	}
	return jsonscan.Text(raw)
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
