package e2ee

import "e2ee-proxy/e2ee/internal/wire"

// A sync that begins anew may come from the homeserver's memory: Synapse answers the same one
// for two minutes with what it said the first time. So it may be older than what is known
// here, and nothing that it says makes anybody a recipient; nor does it ever say that a room
// is not encrypted, or that nobody left, by leaving something out. What it says otherwise
// than what is known has the homeserver asked.

// dropStale takes out of what an initial sync says of a room what may be old and would
// widen who gets its keys.
func (s *step) dropStale(u RoomUpdate) RoomUpdate {
	r := s.known(u.RoomID)
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
