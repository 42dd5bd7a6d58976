package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/status"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// Person is a user whose identity is known, and how the account stands to it: see
// [UserTrust.State].
type Person struct {
	UserID id.UserID `json:"user_id"`
	State  string    `json:"state"`
}

// People returns up to limit users whose identity is known, those after one in the order of their
// IDs; the own user is not among them. It says what is stored, and does not ask the homeserver.
func (d *Device) People(ctx context.Context, after id.UserID, limit int) ([]Person, error) {
	if !d.judges() {
		return nil, core.ErrNotProxied
	}
	rows, err := d.core.Env.Store.UsersAfter(ctx, d.acct.Row, after, limit+1) // one may be the own user
	if err != nil {
		return nil, fmt.Errorf("list people: %w", err)
	}
	out := make([]Person, 0, len(rows))
	for i := range rows {
		if rows[i].UserID != d.acct.User && len(out) < limit {
			out = append(out, Person{rows[i].UserID, trustcache.StateOf(rows[i]).String()})
		}
	}
	return out, nil
}

// In which room another user is asked to verify. Other clients ask in the room for the two of
// them, and make one when there is none. Here that is done only for somebody with whom the user
// shares no encrypted room: everybody else's devices can be asked without a room.

// roomWith returns the room in which the user talks to another one, empty when there is none: a
// room that the user's clients call direct, in which the user is, and the other one is or is
// invited.
func (d *Device) roomWith(ctx context.Context, user id.UserID) (id.RoomID, error) {
	direct, err := d.directByUser(ctx)
	if err != nil {
		return "", err
	}
	const most = 10
	for _, room := range direct[user][max(0, len(direct[user])-most):] {
		mine, err := d.membershipOf(ctx, room, d.acct.User)
		if err != nil {
			return "", err
		}
		if mine != "join" {
			continue
		}
		theirs, err := d.membershipOf(ctx, room, user)
		if err != nil {
			return "", err
		}
		if theirs == "join" || theirs == "invite" {
			return room, nil
		}
	}
	return "", nil
}

// membershipOf returns the membership of a user in a room; empty when there is none, or the room
// may not be looked into.
func (d *Device) membershipOf(ctx context.Context, room id.RoomID, user id.UserID) (string, error) {
	var content json.RawMessage
	err := d.core.Call(ctx, wire.Request{
		Op: "read who is in a room", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "rooms", room, "state", wire.TypeMember, user}, Result: &content,
	})
	if slices.Contains([]int{http.StatusForbidden, http.StatusNotFound, http.StatusBadRequest}, wire.Status(err)) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	member, err := strictjson.Parse(content)
	if err != nil {
		return "", nil
	}
	return member.TextOrEmpty("membership"), nil
}

// directByUser returns the rooms that the user's clients call direct, by who else is in them.
func (d *Device) directByUser(ctx context.Context) (map[id.UserID][]id.RoomID, error) {
	raw, err := d.core.AccountData(ctx, "m.direct")
	if err != nil || raw == nil {
		return nil, err
	}
	var direct map[id.UserID][]id.RoomID
	if json.Unmarshal(raw, &direct) != nil {
		return nil, nil // another client has to mend it
	}
	return direct, nil
}

// meets reports whether the user shares an encrypted room with another one, or may share one.
func (d *Device) meets(ctx context.Context, user id.UserID) bool {
	const most = 30 // of more it is not looked up who is in them
	tracked, err := d.core.Env.Store.TrackedUsers(ctx, d.acct.Row)
	if err != nil || slices.Contains(tracked, user) {
		return true
	}
	all, err := d.core.Env.Store.Rooms(ctx, d.acct.Row, d.core.RowID, nil)
	if err != nil || len(all) > most {
		return true
	}
	for room := range all {
		members, err := d.rooms.ListMembers(ctx, room, false)
		if errors.Is(err, core.ErrNotJoined) || wire.Status(err) == http.StatusForbidden {
			continue // left
		}
		if err != nil || members[user] == "join" || members[user] == "invite" {
			return true
		}
	}
	return false
}

// meet makes an encrypted room with another user, whom it invites, and records that it is direct.
func (d *Device) meet(ctx context.Context, user id.UserID) (id.RoomID, error) {
	const algorithm = `{"algorithm":"m.megolm.v1.aes-sha2"}`
	var made struct {
		RoomID id.RoomID `json:"room_id"`
	}
	err := d.core.Call(ctx, wire.Request{
		Op: "make a room to verify in", Method: http.MethodPost, Path: mautrix.ClientURLPath{"v3", "createRoom"}, Result: &made,
		Body: map[string]any{
			"preset": "trusted_private_chat", "is_direct": true, "invite": []id.UserID{user},
			"initial_state": []any{map[string]any{"type": "m.room.encryption", "state_key": "", "content": json.RawMessage(algorithm)}},
		},
	})
	if err != nil {
		return "", err
	}
	if err := d.noteMade(ctx, made.RoomID, algorithm, user); err != nil {
		return "", err
	}
	raw, err := d.core.AccountData(ctx, "m.direct")
	if err != nil {
		return "", err
	}
	direct, err := strictjson.Parse(raw)
	if raw != nil && err != nil {
		return made.RoomID, nil // another client has to mend it
	}
	rooms, err := json.Marshal(append(direct.Texts(user.String()), made.RoomID.String()))
	if err != nil {
		return "", fmt.Errorf("record that a room is direct: %w", err)
	}
	return made.RoomID, d.core.SetAccountData(ctx, "m.direct", json.RawMessage(direct.Set(user.String(), rooms).Encode()))
}

// User returns what is known of a user. The homeserver is asked if that may be out of date.
func (d *Device) User(ctx context.Context, user id.UserID) (UserTrust, error) {
	if !d.judges() {
		return UserTrust{}, core.ErrNotProxied
	}
	u, err := d.lookUp(ctx, user)
	if err != nil {
		return UserTrust{}, err
	}
	if !u.Known() {
		return UserTrust{}, core.ErrUnknownUser
	}
	out := UserTrust{
		UserID: user, State: u.State().String(), PinnedMasterKey: u.PinnedMaster, CurrentMasterKey: u.Current,
		Devices: []status.Device{},
	}
	for i := range u.Devices {
		if u.Devices[i].Fault != trustcache.FaultNoKeys { // requirement 1.19
			out.Devices = append(out.Devices, status.TrustOf(&u.Devices[i]))
		}
	}
	return out, nil
}

// Acknowledge accepts a changed identity.
func (d *Device) Acknowledge(ctx context.Context, user id.UserID, master id.Ed25519) error {
	if !d.judges() {
		return core.ErrNotProxied
	}
	if _, err := d.lookUp(ctx, user); err != nil {
		return err
	}
	return controlReason(d.acct.Tracker.Acknowledge(trustcache.By(ctx, d.core.ID), user, master))
}

// WithdrawVerification withdraws the verification of a user whose identity changed.
func (d *Device) WithdrawVerification(ctx context.Context, user id.UserID) error {
	if !d.judges() {
		return core.ErrNotProxied
	}
	return controlReason(d.acct.Tracker.Withdraw(trustcache.By(ctx, d.core.ID), user))
}

// SetOverride sets the explicit exception for a device; nil removes it.
func (d *Device) SetOverride(ctx context.Context, user id.UserID, device id.DeviceID, trusted *bool) error {
	if !d.judges() {
		return core.ErrNotProxied
	}
	if _, err := d.lookUp(ctx, user); err != nil {
		return err
	}
	override := trustcache.OverrideNone
	if trusted != nil && *trusted {
		override = trustcache.OverrideTrusted
	} else if trusted != nil {
		override = trustcache.OverrideDistrusted
	}
	return controlReason(d.acct.Tracker.SetOverride(trustcache.By(ctx, d.core.ID), user, device, override))
}
