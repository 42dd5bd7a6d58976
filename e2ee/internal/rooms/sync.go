package rooms

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
)

// Section is the part of a sync response that a room is in.
type Section int

// The sections of rooms in a sync response.
const (
	SectionJoin Section = iota + 1
	SectionInvite
	SectionKnock
	SectionLeave
)

// StateChange is a state event that matters to encryption: m.room.encryption,
// m.room.history_visibility or m.room.member.
type StateChange struct {
	Type     string
	StateKey string
	Content  json.RawMessage
}

// Update is the part of a sync response about one room that matters to encryption, in
// the order of the events.
type Update struct {
	RoomID  id.RoomID
	Section Section
	Limited bool
	Changes []StateChange
	// Inviter is who invited the own user, as the homeserver says, in SectionInvite.
	Inviter id.UserID
}

// JoinedInGap returns the users who may have joined in the gap of a limited update: Dendrite
// (0.15.2) names nobody in device_lists who left or joined there. It shows them to lazy-loading
// clients too, and names everybody in a room that the account itself has just joined.
func (u *Update) JoinedInGap(own id.UserID) (users []id.UserID) {
	if !u.Limited || u.Section != SectionJoin {
		return nil
	}
	for _, c := range u.Changes {
		switch {
		case c.Type != wire.TypeMember || membershipOf(c.Content) != "join":
		case c.StateKey == own.String():
			return nil
		default:
			users = append(users, id.UserID(c.StateKey))
		}
	}
	return users
}

// An initial sync may come from the homeserver's cache: Synapse repeats its answer for two
// minutes. So it may be older than what is known here. It makes nobody a recipient, and
// what it leaves out never proves that a room is not encrypted or that nobody left. Where
// it contradicts what is known, the homeserver is asked.

// Apply stages what a sync says of rooms. Also rooms without changes are loaded: plain events
// in an encrypted room must be recognised when the response is shown. initial says that the
// sync continues none, own that it is the proxy's own, and overtaken that something has
// changed since it was requested. The caller holds mu.
func (rt *Table) Apply(ctx context.Context, s *core.Step, updates []Update, initial, own, overtaken bool) error {
	if err := rt.loadRooms(ctx, updates); err != nil {
		return err
	}
	for _, u := range updates {
		// An initial sync has no gap in which somebody could have left.
		u.Limited = u.Limited && !initial
		if initial {
			u = rt.dropStale(s, u)
		}
		if err := rt.applyUpdate(ctx, u, own, initial, s); err != nil {
			return err
		}
		if overtaken {
			rt.refetchOutdated(s, u)
		}
	}
	return nil
}

// dropStale removes from an initial sync's update of a room what may be old and would widen
// who gets the room's keys.
func (rt *Table) dropStale(s *core.Step, u Update) Update {
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

// refetchOutdated makes the next use fetch again what an outdated response says of a room:
// a later response, or a change by the client, is newer than it. It may list somebody as a
// member who has left.
func (rt *Table) refetchOutdated(s *core.Step, u Update) {
	r := rt.changeKnown(s, u.RoomID)
	if r == nil {
		return
	}
	for _, c := range u.Changes {
		switch c.Type {
		case wire.TypeMember:
			r.forgetMembers()
		case wire.TypeVisibility:
			r.refetchVisibility()
		}
	}
}

// applyUpdate stages what a sync says of a room, in order; an initial one may be older than what is
// known. The caller holds mu.
func (rt *Table) applyUpdate(ctx context.Context, u Update, own, initial bool, s *core.Step) error {
	if u.Section == SectionInvite || u.Section == SectionKnock || len(u.RoomID) > wire.MaxIDLength {
		return nil // stripped state proves nothing (requirement 20.4)
	}
	for _, c := range u.Changes {
		var err error
		switch c.Type {
		case wire.TypeEncryption:
			if c.StateKey == "" {
				err = rt.applyEncryption(ctx, s, u.RoomID, c.Content, initial)
			}
		case wire.TypeVisibility:
			if c.StateKey == "" {
				err = rt.applyVisibility(ctx, s, u.RoomID, visibilityOf(c.Content))
			}
		case wire.TypeMember:
			err = rt.applyMember(ctx, s, u.RoomID, id.UserID(c.StateKey), membershipOf(c.Content), u.Limited)
			r := rt.changeKnown(s, u.RoomID)
			if r != nil {
				r.r.told = rt.Env.Now() // also if this is not stored
			}
			if r != nil && id.UserID(c.StateKey) == rt.Account.User && u.Section == SectionLeave {
				r.forgetMembers()
			}
		}
		if err != nil {
			return err
		}
	}
	if r := rt.changeKnown(s, u.RoomID); r != nil && u.Limited && !own {
		// With lazy loading a client does not see who joined and left in the gap: fetch the
		// members again, and rotate (requirement 9.4).
		r.forgetMembers()
		if r.encrypted {
			rt.host.DiscardOutbound(s, u.RoomID)
		}
	}
	return nil
}

func membershipOf(content json.RawMessage) string {
	var c struct {
		Membership string `json:"membership"`
	}
	if json.Unmarshal(content, &c) != nil || c.Membership == "" {
		return "leave" // unreadable: counts as left, which costs a rotation at most
	}
	return c.Membership
}
