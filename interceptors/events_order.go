package interceptors

import (
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// A message in clear is nothing wrong when it was sent before its room was encrypted. What
// a body shows of a room's history tells: its first m.room.encryption, and on which side of
// it a message stands. Nothing else does: not a time, which is its sender's to choose, and
// not that a list of state lacks something, since homeservers cut those or take them from
// memory.

// stand is where the events of a place stand in the history that they are part of. The
// order of the values is that of the history.
type stand uint8

const (
	// standNowhere is a place that says nothing of order.
	standNowhere stand = iota
	// standStart is the state at the beginning of what follows.
	standStart
	// standBefore, standAt and standAfter are the parts of an event's context; what stands
	// before is listed with the newest first, what comes after with the oldest.
	standBefore
	standAt
	standAfter
	// standPaged is standBefore or standAfter, by the direction of the page.
	standPaged
)

// history is a part of a body that shows a part of one room's history.
type history struct {
	from, to int64 // its bytes
	room     id.RoomID
	// found is set when it has an encryption event; the oldest stands at.
	found  bool
	at     stand
	offset int64
	// first says that this one made the room encrypted, and did not replace another.
	first bool
	// rest holds for events whose place says nothing.
	rest e2ee.Order
}

// encrypted notes an encryption event.
func (h *history) encrypted(at stand, offset int64, replaces bool) {
	if at == standNowhere || h.found && later(at, offset, h.at, h.offset) {
		return
	}
	h.found, h.at, h.offset = true, at, offset
	h.first = !replaces && at != standStart // where state stands, it is not said since when
}

// later reports whether a stands behind b in the history.
func later(a stand, aOffset int64, b stand, bOffset int64) bool {
	switch {
	case a != b:
		return a > b
	case a == standBefore:
		return aOffset < bOffset
	}
	return aOffset > bOffset
}

// order tells how an event stands to the encryption of its room.
func (h *history) order(at stand, offset int64) e2ee.Order {
	switch {
	case at == standNowhere, !h.found:
		return h.rest
	case later(at, offset, h.at, h.offset):
		return e2ee.OrderAfter
	case h.first:
		return e2ee.OrderBefore
	}
	return h.rest
}

// histories are those of a body that say more than others, in the order of the body.
type histories struct {
	rest e2ee.Order // of all others
	list []history
}

// add notes one, at its end.
func (s *histories) add(h history) {
	if h.found || h.rest != s.rest {
		s.list = append(s.list, h)
	}
}

// order tells how an event at an offset stands to the encryption of its room. Offsets must
// not go back.
func (s *histories) order(at stand, offset int64) e2ee.Order {
	for len(s.list) > 0 && s.list[0].to <= offset {
		s.list = s.list[1:]
	}
	if len(s.list) == 0 || offset < s.list[0].from {
		return s.rest
	}
	return s.list[0].order(at, offset)
}

// claimed gives the rooms of which a history shows how they became encrypted.
func (s *histories) claimed() []id.RoomID {
	var rooms []id.RoomID
	for i := range s.list {
		if s.list[i].first {
			rooms = append(rooms, s.list[i].room)
		}
	}
	return rooms
}

// deny takes the claims of rooms back that were encrypted before.
func (s *histories) deny(known func(id.RoomID) bool) {
	for i := range s.list {
		h := &s.list[i]
		h.first = h.first && !known(h.room)
	}
}

// olderPages remembers pages of rooms' histories on which everything is older than the
// room's encryption, by where they begin: the page before the encryption, and those before
// that one. What is forgotten is marked again.
type olderPages interface {
	Contains(page string) bool
	Add(page string, _ struct{}) (evicted bool)
}

// maxOlderPages is how many are remembered, of all rooms and users together.
const maxOlderPages = 4096

func pageName(user id.UserID, room id.RoomID, token string) string {
	return string(slices.Concat([]byte(user), []byte{0}, []byte(room), []byte{0}, []byte(token)))
}
