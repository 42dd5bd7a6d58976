package rooms

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
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
	heard    int // how often the visibility was heard of
}

// stagedRooms are the changes of rooms in a step.
type stagedRooms map[id.RoomID]*roomStep

func (r stagedRooms) Stage(s *core.Step) {
	for _, one := range r {
		if one.stored {
			s.Changes.Rooms = append(s.Changes.Rooms, one.row)
		}
	}
}

func (r stagedRooms) Apply() {
	for _, one := range r {
		one.apply()
	}
}

// change returns a step's change of a room, empty at first.
func (rt *Table) change(ctx context.Context, s *core.Step, roomID id.RoomID) (*roomStep, error) {
	r, err := rt.roomState(ctx, roomID)
	if err != nil {
		return nil, err
	}
	return rt.enter(s, roomID, r), nil
}

// changeKnown is change for a room in memory; nil for any other.
func (rt *Table) changeKnown(s *core.Step, roomID id.RoomID) *roomStep {
	r := rt.known[roomID]
	if r == nil {
		return nil
	}
	return rt.enter(s, roomID, r)
}

func (rt *Table) enter(s *core.Step, roomID id.RoomID, r *room) *roomStep {
	rooms, _ := s.Part(rt, func() core.Staged { return make(stagedRooms) }).(stagedRooms)
	out := rooms[roomID]
	if out == nil {
		out = &roomStep{r: r, row: r.row, encrypted: r.encrypted, visibility: r.visibility}
		rooms[roomID] = out
	}
	return out
}

// commitRooms is commit for a step about rooms only, which may have nothing to store.
func commitRooms(ctx context.Context, s *core.Step) error {
	return s.Commit(ctx, "what is known of a room")
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
	r.r.heard += r.heard
	if r.forget {
		r.r.forgetMembers()
		return
	}
	for user, membership := range r.members {
		r.r.setMembership(user, membership)
	}
}
