package e2ee

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// noteMember takes a membership event. Whoever leaves may have the key: the session is
// discarded (requirements 9.3, 9.4). In a limited sync every membership but join may
// hide a departure. The caller holds d.mu.
func (d *Device) noteMember(ctx context.Context, roomID id.RoomID, user id.UserID, membership string, limited bool, ch *store.Changes) error {
	r, err := d.roomState(ctx, roomID)
	if err != nil {
		return err
	}
	if d.acct.moved(roomID, user) {
		d.kickLocked()
	}
	departed := membership != "join" && (limited || membership != "invite")
	if was := r.members[user]; departed && (r.members == nil || was == "join" || was == "invite") {
		r.narrowed++
	}
	if departed && r.encrypted && d.mayHaveKey(r, roomID, user) {
		d.discard(roomID, ch)
	}
	r.note(user, membership)
	if said, ok := r.accepted[user]; ok {
		if arrival, departure := said.deniedBy(membership, d.eng.now()); arrival || departure {
			r.forgetMembers() // the event may be older than what the client did since
		}
	}
	return nil
}

// mayHaveKey reports whether the live session of a room was given to a user, as far
// as memory tells; not knowing counts as yes.
func (d *Device) mayHaveKey(r *room, roomID id.RoomID, user id.UserID) bool {
	if out := d.outbound[roomID]; out != nil && out.gaveTo(user) {
		return true
	}
	if r.members == nil {
		return true
	}
	was := r.members[user]
	return was == "join" || was == "invite"
}

// discard marks the room's outbound session as not to be used again. The caller holds d.mu.
func (d *Device) discard(roomID id.RoomID, ch *store.Changes) {
	if out := d.outbound[roomID]; out != nil {
		out.row.Discard = true
	}
	if slices.Contains(ch.DiscardOutbound, roomID) {
		return
	}
	ch.DiscardOutbound = append(ch.DiscardOutbound, roomID)
}

// NoteMembership records a membership change that the homeserver has just accepted
// from the client, without waiting for a sync (requirement 7.6).
func (d *Device) NoteMembership(ctx context.Context, roomID id.RoomID, user id.UserID, membership string) error {
	if user == "" {
		user = d.acct.user
	}
	d.PublishWithin(0)
	d.mu.Lock()
	defer d.mu.Unlock()
	ch := &store.Changes{}
	d.news++
	r, err := d.roomState(ctx, roomID)
	if err != nil {
		return err
	}
	r.accept(user, membership, d.eng.now())
	if err := d.noteMember(ctx, roomID, user, membership, false, ch); err != nil {
		return err
	}
	if user == d.acct.user && (membership == "join" || membership == "leave") {
		r.forgetMembers() // what was known before we came or left says nothing now
	}
	if len(ch.DiscardOutbound) == 0 {
		return nil
	}
	if err := d.save(ctx, ch); err != nil {
		return fmt.Errorf("store rotation: %w", err)
	}
	return nil
}

// audience is who an event in a room is encrypted for.
type audience struct {
	users      []id.UserID
	visibility string
	// room and narrowed tell whether the room was left, or the visibility changed, since.
	room     *room
	narrowed int
}

// recipients gives the users an event in the room is encrypted for: who has joined,
// and who is invited where the history visibility lets invited users read
// (requirement 4.7). The list is complete or an error (requirement 7.6).
func (d *Device) recipients(ctx context.Context, roomID id.RoomID) (*audience, error) {
	d.mu.Lock()
	r, err := d.roomState(ctx, roomID)
	if err != nil {
		d.mu.Unlock()
		return nil, err
	}
	to := &audience{room: r, narrowed: r.narrowed}
	d.mu.Unlock()
	if to.visibility, err = d.visibility(ctx, roomID); err != nil {
		return nil, err
	}
	members, err := d.memberships(ctx, roomID)
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
// caller holds d.mu.
func (d *Device) current(roomID id.RoomID, to *audience) bool {
	return d.rooms[roomID] == to.room && to.room.narrowed == to.narrowed
}

// visibility gives the room's history visibility, asked for if it is not known.
func (d *Device) visibility(ctx context.Context, roomID id.RoomID) (string, error) {
	d.mu.Lock()
	r, err := d.roomState(ctx, roomID)
	if err != nil {
		d.mu.Unlock()
		return "", err
	}
	if r.visibility != "" {
		defer d.mu.Unlock()
		return r.visibility, nil
	}
	d.mu.Unlock()
	var content json.RawMessage
	err = d.call(ctx, request{
		op: "read the room's history visibility", method: http.MethodGet,
		path:   mautrix.ClientURLPath{"v3", "rooms", roomID, "state", typeVisibility, ""},
		result: &content,
	})
	if upstreamStatus(err) == http.StatusNotFound {
		content, err = json.RawMessage(`{}`), nil
	}
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.visibility == "" { // a sync that came meanwhile knows better
		ch := &store.Changes{}
		if err := d.noteVisibility(ctx, roomID, visibilityOf(content), ch); err != nil {
			return "", err
		}
		if err := d.save(ctx, ch); err != nil {
			return "", fmt.Errorf("store room: %w", err)
		}
	}
	return r.visibility, nil
}
