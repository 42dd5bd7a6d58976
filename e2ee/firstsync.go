package e2ee

import (
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
)

// An initial sync may come from the homeserver's cache: Synapse repeats its answer for two
// minutes. So it may be older than what is known here. It makes nobody a recipient, and
// what it leaves out never proves that a room is not encrypted or that nobody left. Where
// it contradicts what is known, the homeserver is asked.

// dropStale removes from an initial sync's update of a room what may be old and would widen
// who gets the room's keys.
func (rt *roomTable) dropStale(s *core.Step, u RoomUpdate) RoomUpdate {
	r := rt.changeKnown(s, u.RoomID)
	if r == nil {
		return u
	}
	kept := u.Changes[:0:0]
	for _, c := range u.Changes {
		switch {
		case c.Type == wire.TypeMember:
			if r.r.members != nil || r.r.loading != nil {
				r.forgetMembers()
			}
			if present(membershipOf(c.Content)) {
				continue
			}
		case c.Type == wire.TypeVisibility && c.StateKey == "":
			if r.visibility != "" && r.visibility != visibilityOf(c.Content) {
				r.refetchVisibility()
			}
			continue
		}
		kept = append(kept, c)
	}
	u.Changes = kept
	return u
}
