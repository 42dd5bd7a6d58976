package e2ee

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// roomStep is what a step makes of a room: copies of what the room says, and what is to be
// done to its list of members, which may be long.
type roomStep struct {
	r          *room
	row        store.Room
	encrypted  bool
	visibility string
	stored     bool // the row differs from the one that is stored
	// members are the memberships that the step notes, in place of those in the list.
	members  map[id.UserID]string
	forget   bool // the list is to be fetched again
	narrowed int
}

// room returns what the step makes of a room, which is nothing yet when it is first asked
// for.
func (s *step) room(ctx context.Context, roomID id.RoomID) (*roomStep, error) {
	if r := s.rooms[roomID]; r != nil {
		return r, nil
	}
	r, err := s.d.roomState(ctx, roomID)
	if err != nil {
		return nil, err
	}
	return s.enter(roomID, r), nil
}

// known is room for one that is in memory; nil for another.
func (s *step) known(roomID id.RoomID) *roomStep {
	if r := s.rooms[roomID]; r != nil {
		return r
	}
	if r := s.d.roomTable.known[roomID]; r != nil {
		return s.enter(roomID, r)
	}
	return nil
}

func (s *step) enter(roomID id.RoomID, r *room) *roomStep {
	if s.rooms == nil {
		s.rooms = make(map[id.RoomID]*roomStep)
	}
	out := &roomStep{r: r, row: r.row, encrypted: r.encrypted, visibility: r.visibility}
	s.rooms[roomID] = out
	return out
}

// commitRooms is commit for a step about rooms only, which may have nothing to store.
func (s *step) commitRooms(ctx context.Context) error {
	return s.commit(ctx, "what is known of a room")
}

// membership returns a user's membership as the step has it; listed is false when the
// members are not known.
func (r *roomStep) membership(user id.UserID) (membership string, listed bool) {
	if r.forget || r.r.members == nil {
		return "", false
	}
	if m, ok := r.members[user]; ok {
		return m, true
	}
	return r.r.members[user], true
}

// setMembership takes a membership.
func (r *roomStep) setMembership(user id.UserID, membership string) {
	if r.members == nil {
		r.members = make(map[id.UserID]string)
	}
	r.members[user] = membership
}

// forgetMembers has the members fetched again; what is on its way now may be too old.
func (r *roomStep) forgetMembers() { r.forget = true }

// apply takes the step over into the room. The caller holds mu.
func (r *roomStep) apply() {
	r.r.row, r.r.encrypted, r.r.visibility = r.row, r.encrypted, r.visibility
	r.r.narrowed += r.narrowed
	if r.forget {
		r.r.forgetMembers()
		return
	}
	for user, membership := range r.members {
		r.r.setMembership(user, membership)
	}
}
