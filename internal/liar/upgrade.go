package liar

import "slices"

// LeaveOutOnUpgrade sets the state that is not copied into a room that replaces another, as
// on some servers.
func (s *Server) LeaveOutOnUpgrade(types ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notCopied = types
}

// upgradeRoom makes a room in the place of another.
func upgradeRoom(s *Server, c *call) Reply {
	old, refusal := s.writable(c)
	if old == nil {
		return refusal
	}
	next := s.newRoom(c.user.id)
	s.addState(next, c.user.id, "m.room.create", "", map[string]any{
		"room_version": "11", "predecessor": map[string]string{"room_id": old.id},
	})
	for _, e := range old.currentState() {
		switch e.Type {
		case "m.room.create", "m.room.member", "m.room.power_levels":
		default:
			if !slices.Contains(s.notCopied, e.Type) {
				s.addState(next, c.user.id, e.Type, *e.StateKey, e.Content)
			}
		}
	}
	s.addState(old, c.user.id, "m.room.tombstone", "", map[string]string{"body": "replaced", "replacement_room": next.id})
	return OK(map[string]any{"replacement_room": next.id})
}
