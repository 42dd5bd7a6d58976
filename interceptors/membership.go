package interceptors

import (
	"context"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// Membership endpoints: invite, kick, ban, unban, join, knock, leave and forget. The engine
// records what the homeserver accepted before the client gets its answer. An invite's 200
// is enough to share the room key with the invitee (requirement 7.6), and after a departure
// the next send uses a new key. Before an invite goes on, the invitee is given the keys of the
// room's history, where they may have them. Before a join goes on, the device has its keys and
// its identity: what is sent to the room is for those whose devices have them.
//
// They pass byte for byte, except for the reason of one's own membership changes in a room
// that is not known to be plain: it is meant for those in the room, who can be told in a
// message. Other reasons are for somebody who has no key, and pass (docs/clear-text.md).

// membershipOfOther handles an endpoint that changes the membership of the user in the body.
func (r *rooms) membershipOfOther(membership string) Handler {
	return func(x *Exchange) error {
		dev, err := x.Device()
		if err != nil {
			return err
		}
		mayBeMail := membership == membershipInvite && x.RequestID != ""
		if dev.Mode() == e2ee.ModeForeign && !x.Again && !mayBeMail {
			return x.Upstream.Forward(x)
		}
		room, err := x.RoomParam()
		if err != nil {
			return err
		}
		raw, err := x.ReadObject()
		if err != nil {
			return err
		}
		body, err := exchange.ParseObject(raw)
		if err != nil {
			return err
		}
		user := body.TextOrEmpty("user_id") // an invitation by e-mail has none yet
		if e2ee.IsNoticeName(user) {
			return apierr.Forbidden("This is the proxy itself, which can be in no room but yours with it.").WithHint("Write to it in that room.")
		}
		if mayBeMail && user == "" && body.TextOrEmpty("address") != "" {
			return r.mails.inviteByMail(x, room, raw)
		}
		if done, err := membershipIs(x, room, user, membership); done || err != nil {
			if err == nil {
				err = noteMembership(context.WithoutCancel(x.Request.Context()), dev, room, id.UserID(user), membership)
			}
			if err != nil {
				return err
			}
			return x.WriteJSON(struct{}{})
		}
		if membership == membershipInvite {
			shareHistory(x, dev, room, user)
		}
		return forwardThen(x, raw, func(ctx context.Context, _ strictjson.Object) error {
			if exchange.ValidUser(user) {
				return noteMembership(ctx, dev, room, id.UserID(user), membership)
			}
			return nil
		})
	}
}

// membershipOfSelf handles an endpoint that changes the membership of the request's user. The room is
// in the answer, else in the path.
func (r *rooms) membershipOfSelf(membership string) Handler {
	return func(x *Exchange) error {
		dev, err := x.Device()
		if err != nil {
			return err
		}
		if r.clearTextAllowed(dev) {
			return x.Upstream.Forward(x)
		}
		raw, err := x.ReadObjectOrNull() // shoutrrr joins with null, at which Dendrite fails
		if err != nil {
			return err
		}
		if membership == membershipJoin || membership == membershipLeave {
			if raw, err = r.withoutReason(x, dev, raw); err != nil {
				return err
			}
		}
		if membership == membershipJoin {
			beforeJoin(x, dev)
		}
		return forwardThen(x, raw, func(ctx context.Context, answer strictjson.Object) error {
			for _, room := range []string{answer.TextOrEmpty("room_id"), x.Endpoint.Params["roomId"], x.Endpoint.Params["roomIdOrAlias"]} {
				if exchange.ValidRoom(room) {
					return noteMembership(ctx, dev, id.RoomID(room), x.Identity.UserID, membership)
				}
			}
			return nil
		})
	}
}

// withoutReason removes the reason from a body, unless the room in the path is known to be
// plain.
func (r *rooms) withoutReason(x *Exchange, dev Device, raw []byte) ([]byte, error) {
	if exchange.IsBlank(raw) {
		return raw, nil
	}
	content, err := exchange.ParseObject(raw)
	if err != nil {
		return nil, err
	}
	if content.Get(memberReason) == nil {
		return raw, nil
	}
	for _, room := range []string{x.Endpoint.Params["roomId"], x.Endpoint.Params["roomIdOrAlias"]} {
		if !exchange.ValidRoom(room) {
			continue
		}
		if state, err := r.encryption(x, dev, id.RoomID(room)); err == nil && state == e2ee.RoomPlain {
			return raw, nil
		}
	}
	return withoutMembers(raw, content, memberReason)
}

// shareHistory has the keys of the room's history given to who is about to be invited, before
// that is so, as the specification says: then they are there when the invitation is (Sharing
// keys between users). Whatever becomes of it, the invitation goes on.
func shareHistory(x *Exchange, dev Device, room id.RoomID, user string) {
	if dev.Mode() == e2ee.ModeProxied && exchange.ValidUser(user) && user != x.Identity.UserID.String() {
		dev.ShareHistory(x.Request.Context(), room, id.UserID(user))
	}
}

// beforeJoin makes a device ready for what the room's members will send it. Whatever becomes of it,
// the join goes on.
func beforeJoin(x *Exchange, dev Device) {
	if dev.Mode() == e2ee.ModeProxied {
		dev.BeforeJoin(x.Request.Context())
	}
}

// noteMembership records a membership that the homeserver accepted in the engine. Only a
// device whose keys the proxy holds needs it.
func noteMembership(ctx context.Context, dev Device, room id.RoomID, user id.UserID, membership string) error {
	if dev.Mode() != e2ee.ModeProxied {
		return nil
	}
	if err := dev.NoteMembership(ctx, room, user, membership); err != nil {
		return engineerr.For(fmt.Errorf("note a membership: %w", err))
	}
	return nil
}
