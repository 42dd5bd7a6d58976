package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
)

// applyMember stages a membership event. A user who leaves may have the key, so the session
// is discarded (requirements 9.3, 9.4). In a limited sync every membership but join may
// hide a departure.
func (d *Device) applyMember(ctx context.Context, s *core.Step, roomID id.RoomID, user id.UserID, membership string, limited bool) error {
	r, err := d.roomTable.change(ctx, s, roomID)
	if err != nil {
		return err
	}
	if d.acct.warnings.ForgetPlaces(roomID, user) {
		s.After(d.kickLocked)
	}
	departed := membership != "join" && (limited || membership != "invite")
	was, listed := r.membership(user)
	if departed && (!listed || present(was)) {
		r.narrowed++
	}
	if departed && r.encrypted && d.megolmState.mayHaveKey(roomID, user, !listed || present(was)) {
		d.megolmState.discard(s, roomID)
	}
	r.setMembership(user, membership)
	if d.eng.accepted.isOutdated(roomID, user, membership, d.core.Env.Now()) {
		r.forgetMembers()
	}
	return nil
}

// mayHaveKey reports whether a user was given the live session of a room, as far as memory
// knows; listed says that the user is, or may be, a member.
func (m *megolmState) mayHaveKey(roomID id.RoomID, user id.UserID, listed bool) bool {
	out := m.outbound[roomID]
	return listed || out != nil && out.gaveTo(user)
}

// discard stages that the room's outbound session is not used again.
func (m *megolmState) discard(s *core.Step, roomID id.RoomID) {
	if slices.Contains(s.Changes.DiscardOutbound, roomID) {
		return
	}
	s.Changes.DiscardOutbound = append(s.Changes.DiscardOutbound, roomID)
	s.After(func() {
		if out := m.outbound[roomID]; out != nil {
			out.row.Discard = true
		}
	})
}

// NoteMembership records a membership change that the homeserver has just accepted from the
// client, without waiting for a sync (requirement 7.6). Also if it cannot be stored, older
// member lists are refused from now on.
func (d *Device) NoteMembership(ctx context.Context, roomID id.RoomID, user id.UserID, membership string) error {
	if user == "" {
		user = d.acct.User
	}
	d.publication.publishWithin(0)
	ctx = context.WithoutCancel(ctx)
	d.eng.accepted.record(roomID, user, membership, d.core.Env.Now())
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	d.roomTable.news++
	r, err := d.roomTable.roomState(ctx, roomID)
	if err != nil {
		return err // the room is not in memory: its members are fetched
	}
	s := d.core.Begin()
	if err := d.applyMember(ctx, s, roomID, user, membership, false); err != nil {
		return err
	}
	if user == d.acct.User && (membership == "join" || membership == "leave") {
		d.roomTable.changeKnown(s, roomID).forgetMembers() // the members known before the own user joined or left do not count
	}
	if err := commitRooms(ctx, s); err != nil {
		r.forgetMembers() // the change has happened nevertheless: the members are fetched again
		return err
	}
	return nil
}

// audience are the users that an event in a room is encrypted for.
type audience struct {
	users      []id.UserID
	visibility string
	// room and narrowed show whether somebody left, or the visibility changed, since.
	room     *room
	narrowed int
}

// recipients returns the users that an event in the room is encrypted for: those who
// joined, and those who are invited if the history visibility lets invited users read
// (requirement 4.7). The list is complete, or there is an error (requirement 7.6).
func (d *Device) recipients(ctx context.Context, roomID id.RoomID) (*audience, error) {
	d.core.Mu.Lock()
	r, err := d.roomTable.roomState(ctx, roomID)
	if err != nil {
		d.core.Mu.Unlock()
		return nil, err
	}
	to := &audience{room: r, narrowed: r.narrowed}
	d.core.Mu.Unlock()
	if to.visibility, err = d.roomTable.visibility(ctx, roomID); err != nil {
		return nil, err
	}
	members, err := d.roomTable.memberships(ctx, roomID)
	if err != nil {
		return nil, err
	}
	to.users = make([]id.UserID, 0, len(members))
	for user, membership := range members {
		if membership == "join" || (membership == "invite" && to.visibility != "joined") {
			to.users = append(to.users, user)
		}
	}
	return to, nil
}

// current reports whether nobody can have left the audience since it was gathered. The
// caller holds mu.
func (rt *roomTable) current(roomID id.RoomID, to *audience) bool {
	return rt.known[roomID] == to.room && to.room.narrowed == to.narrowed
}

// visibility returns the room's history visibility, fetched if it is not known.
func (rt *roomTable) visibility(ctx context.Context, roomID id.RoomID) (string, error) {
	rt.Mu.Lock()
	r, err := rt.roomState(ctx, roomID)
	if err != nil {
		rt.Mu.Unlock()
		return "", err
	}
	if r.visibility != "" {
		defer rt.Mu.Unlock()
		return r.visibility, nil
	}
	rt.Mu.Unlock()
	var content json.RawMessage
	err = rt.Call(ctx, wire.Request{
		Op: "read the room's history visibility", Method: http.MethodGet,
		Path:   mautrix.ClientURLPath{"v3", "rooms", roomID, "state", wire.TypeVisibility, ""},
		Result: &content,
	})
	var up *wire.UpstreamError
	if errors.As(err, &up) && up.Status == http.StatusNotFound && up.ErrCode == "M_NOT_FOUND" {
		content, err = json.RawMessage(`{}`), nil
	}
	if err != nil {
		return "", err
	}
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	if r.visibility == "" { // a sync in between is newer
		s := rt.Begin()
		if err := rt.applyVisibility(ctx, s, roomID, visibilityOf(content)); err != nil {
			return "", err
		}
		if err := commitRooms(ctx, s); err != nil {
			return "", err
		}
	}
	return r.visibility, nil
}
