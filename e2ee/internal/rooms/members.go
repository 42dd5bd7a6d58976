package rooms

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
)

// slowAnswer is how long the homeserver may take to answer that it accepted a membership: an invitation
// waits for the invitee's own homeserver.
const slowAnswer = 3 * time.Minute

// applyMember stages a membership event. A user who leaves may have the key, so the session
// is discarded (requirements 9.3, 9.4). In a limited sync every membership but join may
// hide a departure.
func (rt *Table) applyMember(ctx context.Context, s *core.Step, roomID id.RoomID, user id.UserID, membership string, limited bool) error {
	r, err := rt.change(ctx, s, roomID)
	if err != nil {
		return err
	}
	rt.host.MemberMoved(s, roomID, user)
	departed := membership != "join" && (limited || membership != "invite")
	was, listed := r.membership(user)
	if departed && (!listed || present(was)) {
		r.narrowed++
	}
	if departed && r.encrypted {
		rt.host.Departed(s, roomID, user, !listed || present(was))
	}
	r.setMembership(user, membership)
	if rt.shared.accepted.isOutdated(roomID, user, membership, rt.Env.Now()) {
		r.forgetMembers()
	}
	return nil
}

// NoteMembership records a membership change that the homeserver has just accepted from the
// client, without waiting for a sync (requirement 7.6). Also if it cannot be stored, older
// member lists are refused from now on.
func (rt *Table) NoteMembership(ctx context.Context, roomID id.RoomID, user id.UserID, membership string) error {
	if user == "" {
		user = rt.Account.User
	}
	ctx = context.WithoutCancel(ctx)
	rt.shared.accepted.record(roomID, user, membership, rt.Env.Now())
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	rt.News++
	r, err := rt.roomState(ctx, roomID)
	if err != nil {
		return err // the room is not in memory: its members are fetched
	}
	s := rt.Begin()
	if err := rt.applyMember(ctx, s, roomID, user, membership, false); err != nil {
		return err
	}
	// The members known before the own user joined or left do not count. And what a sync has lately
	// told may be newer than this, if it was answered slowly: nobody is let in by it, and who was
	// removed by it may be back.
	own, slow := user == rt.Account.User, rt.Env.Now().Sub(r.told) < slowAnswer
	switch {
	case own && (membership == "join" || membership == "leave"), slow && present(membership):
		rt.changeKnown(s, roomID).forgetMembers()
	case slow:
		r.recheck = rt.Env.Now().Add(acceptedFor)
	}
	if err := commitRooms(ctx, s); err != nil {
		r.forgetMembers() // the change has happened nevertheless: the members are fetched again
		return err
	}
	return nil
}

// Audience are the users that an event in a room is encrypted for, and its history
// visibility.
type Audience struct {
	Users      []id.UserID
	Visibility string

	members map[id.UserID]string
	// room and narrowed show whether somebody left, or the visibility changed, since.
	room     *room
	narrowed int
}

// Recipients returns the users that an event in the room is encrypted for: those who
// joined, and those who are invited if the history visibility lets invited users read
// (requirement 4.7). The list is complete, or there is an error (requirement 7.6).
func (rt *Table) Recipients(ctx context.Context, roomID id.RoomID) (*Audience, error) {
	rt.Mu.Lock()
	r, err := rt.roomState(ctx, roomID)
	if err != nil {
		rt.Mu.Unlock()
		return nil, err
	}
	to := &Audience{room: r, narrowed: r.narrowed}
	rt.Mu.Unlock()
	if to.Visibility, err = rt.visibility(ctx, roomID); err != nil {
		return nil, err
	}
	members, err := rt.memberships(ctx, roomID)
	if err != nil {
		return nil, err
	}
	to.Users, to.members = recipients(members, to.Visibility), members
	return to, nil
}

// Joined reports whether a user has joined the room, and is not only invited.
func (a *Audience) Joined(user id.UserID) bool { return a.members[user] == "join" }

// recipients returns those of a room's members that an event is encrypted for.
func recipients(members map[id.UserID]string, visibility string) []id.UserID {
	users := make([]id.UserID, 0, len(members))
	for user, membership := range members {
		if membership == "join" || (membership == "invite" && visibility != "joined") {
			users = append(users, user)
		}
	}
	return users
}

// Current reports whether nobody can have left the audience since it was gathered. The
// caller holds mu.
func (rt *Table) Current(roomID id.RoomID, to *Audience) bool {
	return rt.known[roomID] == to.room && to.room.narrowed == to.narrowed
}

// KnownMembers returns how many people have joined a room or are invited, if its list is in
// memory; otherwise 0.
func (rt *Table) KnownMembers(roomID id.RoomID) int {
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	r := rt.known[roomID]
	if r == nil {
		return 0
	}
	n := 0
	for _, membership := range r.members {
		if present(membership) {
			n++
		}
	}
	return n
}

// Invitee is how somebody stands in a room who is invited to it, or is about to be.
type Invitee int

const (
	// InviteeUnknown means that it cannot be told now.
	InviteeUnknown Invitee = iota
	// InviteeNoMore means that nobody is given the room's history by this account, which is not in the
	// room or may not share it any more, or that the invitee was removed just now.
	InviteeNoMore
	// InviteeLeft is somebody who has left the room, or was removed; it may be long ago.
	InviteeLeft
	// InviteeAbsent is somebody who was not in it, as far as is known.
	InviteeAbsent
	// InviteePresent is somebody who is invited, or has joined.
	InviteePresent
)

// Invited returns how a user stands in a room whose history is shared with them: by what was read and
// synced, and by what the homeserver has just accepted from clients of this proxy. The caller holds mu.
func (rt *Table) Invited(roomID id.RoomID, user id.UserID) Invitee {
	now := rt.Env.Now()
	said := rt.shared.accepted.inRoom(roomID, now)
	r := rt.known[roomID]
	switch {
	case said.hasLeft(rt.Account.User) || said.hasLeft(user):
		return InviteeNoMore
	case r == nil || r.members == nil || r.visibility == "":
		return InviteeUnknown
	case r.members[rt.Account.User] != "join" || !Shareable(rt.shared.visible.narrow(roomID, r.visibility, now)):
		return InviteeNoMore
	}
	switch r.members[user] {
	case "invite", "join":
		return InviteePresent
	case "leave", "ban":
		return InviteeLeft
	default:
		return InviteeAbsent
	}
}
