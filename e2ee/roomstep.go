package e2ee

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// roomStep is the staged change of a room: copies of the room's values, and the changes to
// its member list, which may be long.
type roomStep struct {
	r          *room
	row        store.Room
	encrypted  bool
	visibility string
	stored     bool // the row differs from the stored one
	// members are the staged memberships, in place of those in the list.
	members  map[id.UserID]string
	forget   bool // the list must be fetched again
	narrowed int
}

// room returns the step's change of a room, empty at first.
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

// known is room for a room in memory; nil for any other.
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

// membership returns a user's membership as staged; listed is false when the members are
// not known.
func (r *roomStep) membership(user id.UserID) (membership string, listed bool) {
	if r.forget || r.r.members == nil {
		return "", false
	}
	if m, ok := r.members[user]; ok {
		return m, true
	}
	return r.r.members[user], true
}

// setMembership stages a membership.
func (r *roomStep) setMembership(user id.UserID, membership string) {
	if r.members == nil {
		r.members = make(map[id.UserID]string)
	}
	r.members[user] = membership
}

// forgetMembers makes the next use fetch the members again; a fetch in flight is discarded.
func (r *roomStep) forgetMembers() { r.forget = true }

// apply changes the room as staged. The caller holds mu.
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
