package rewrite

import (
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// A message in clear is all right when it was sent before its room was encrypted. Only the
// part of the room's history in a body shows that: its first m.room.encryption, and on
// which side of it a message stands. A time does not, since its sender chooses it, nor does
// a list of state without m.room.encryption, since homeservers cut those or take them from
// memory.

// Position is the part of a room's history to which the events of a place belong. The order of
// the values is that of the history.
type Position uint8

const (
	// Nowhere is a place without an order.
	Nowhere Position = iota
	// Start is the state at the beginning of what follows.
	Start
	// Before, At and After are the parts of an event's context; what stands
	// before is listed with the newest first, what comes after with the oldest.
	Before
	At
	After
	// Paged is Before or After, depending on the direction of the page.
	Paged
)

// history is a part of one room's history in a body.
type history struct {
	from, to int64 // its bytes
	room     id.RoomID
	// found reports whether it has an encryption event; at is where the oldest stands.
	found  bool
	at     Position
	offset int64
	// first reports whether that event made the room encrypted, and did not replace another.
	first bool
	// rest is the order of events whose place has none.
	rest e2ee.Order
}

// addEncryption records an encryption event.
func (h *history) addEncryption(at Position, offset int64, replaces bool) {
	if at == Nowhere || h.found && later(at, offset, h.at, h.offset) {
		return
	}
	h.found, h.at, h.offset = true, at, offset
	h.first = !replaces && at != Start // a list of state does not show since when it holds
}

// later reports whether a stands behind b in the history.
func later(a Position, aOffset int64, b Position, bOffset int64) bool {
	switch {
	case a != b:
		return a > b
	case a == Before:
		return aOffset < bOffset
	}
	return aOffset > bOffset
}

// order returns the order of an event relative to the encryption of its room.
func (h *history) order(at Position, offset int64) e2ee.Order {
	switch {
	case at == Nowhere, !h.found:
		return h.rest
	case later(at, offset, h.at, h.offset):
		return e2ee.OrderAfter
	case h.first:
		return e2ee.OrderBefore
	}
	return h.rest
}

// histories are those parts of a body that have an order of their own, in the order of the
// body.
type histories struct {
	rest e2ee.Order // the order of all other events
	list []history
}

// add adds a history, at its end.
func (s *histories) add(h history) {
	if h.found || h.rest != s.rest {
		s.list = append(s.list, h)
	}
}

// order returns the order of the event at an offset relative to the encryption of its room.
// Offsets must not decrease.
func (s *histories) order(at Position, offset int64) e2ee.Order {
	for len(s.list) > 0 && s.list[0].to <= offset {
		s.list = s.list[1:]
	}
	if len(s.list) == 0 || offset < s.list[0].from {
		return s.rest
	}
	return s.list[0].order(at, offset)
}

// withEncryption returns the rooms whose history in the body shows how they became encrypted.
func (s *histories) withEncryption() []id.RoomID {
	var rooms []id.RoomID
	for i := range s.list {
		if s.list[i].first {
			rooms = append(rooms, s.list[i].room)
		}
	}
	return rooms
}

// dropKnown drops that for rooms that were known to be encrypted before.
func (s *histories) dropKnown(known func(id.RoomID) bool) {
	for i := range s.list {
		h := &s.list[i]
		h.first = h.first && !known(h.room)
	}
}
