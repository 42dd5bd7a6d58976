package interceptors

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// POST createRoom. Encryption, history visibility and invites in the body hold from the
// answer on: the first send into the new room is encrypted, and an invitee gets its key
// without waiting for a sync (requirement 7.6). A homeserver may encrypt a room by itself
// or by its preset: what the body does not say is asked of the homeserver before the first
// send. An unknown algorithm is refused (requirement 20.2), and so are messages in
// initial_state: whether the room will be encrypted is not known yet. Among replicas a room is not
// made twice when one of them ends meanwhile, see makeonce.go.

// createRoom handles [CreateRoom].
func (r *rooms) createRoom(x *Exchange) error {
	dev, err := x.Device()
	if err != nil {
		return err
	}
	raw, err := x.ReadObject()
	if err != nil {
		return err
	}
	body, err := exchange.ParseObject(raw)
	if err != nil && !r.clearTextAllowed(dev) {
		return err
	}
	// The client of a device with keys of its own may know another algorithm. What is not read
	// here is asked of the homeserver before the first send.
	initial, err := readInitialState(body)
	mayPass := r.clearTextAllowed(dev) || dev.Mode() == e2ee.ModeForeign && apierr.HasCode(err, apierr.CodeCannotEncrypt)
	if err != nil && !mayPass {
		return err
	}
	if raw, err = r.files.inClear(x, dev, raw); err != nil {
		return err
	}
	made := func(ctx context.Context, room id.RoomID) error {
		return r.noteRoom(ctx, x, dev, room, initial, body.Texts("invite"))
	}
	if x.RequestID != "" {
		return r.makeRoomOnce(x, body, raw, made)
	}
	return forwardThen(x, raw, func(ctx context.Context, answer strictjson.Object) error {
		room := answer.TextOrEmpty("room_id")
		if !exchange.ValidRoom(room) {
			return nil
		}
		return made(ctx, id.RoomID(room))
	})
}

// initialState holds what matters to encryption of initial_state.
type initialState struct {
	encryption jsontext.Value // nil when there is none
	visibility string
}

// readInitialState takes the last event of each type, as homeservers do. An unknown
// algorithm is refused after everything else.
func readInitialState(body strictjson.Object) (initialState, error) {
	var out initialState
	var unknown error
	for _, raw := range body.List("initial_state") {
		if jsontext.Value(raw).Kind() != jsontext.KindBeginObject {
			return out, apierr.BadJSON("An event of initial_state must be an object.")
		}
		event, err := exchange.ParseObject(raw)
		if err != nil {
			return out, err
		}
		if isMessageType(event.TextOrEmpty("type")) {
			return out, messageAsState()
		}
		if event.TextOrEmpty("state_key") != "" {
			continue
		}
		switch event.TextOrEmpty("type") {
		case typeEncryption:
			content := event.Object("content")
			if err := checkAlgorithm(content); err != nil {
				unknown = err
				continue
			}
			out.encryption = jsontext.Value(event.Get("content"))
		case typeVisibility:
			out.visibility = event.Object("content").TextOrEmpty("history_visibility")
		}
	}
	return out, unknown
}

// noteRoom records a room that the homeserver has just made in the engine.
func (r *rooms) noteRoom(ctx context.Context, x *Exchange, dev Device, room id.RoomID, initial initialState, invited []string) error {
	if initial.encryption != nil {
		if err := r.noteEncryption(ctx, x, dev, room, initial.encryption); err != nil {
			return err
		}
	}
	if initial.visibility != "" {
		if err := noteVisibility(ctx, dev, room, initial.visibility); err != nil {
			return err
		}
	}
	if err := noteMembership(ctx, dev, room, x.Identity.UserID, membershipJoin); err != nil {
		return err
	}
	for _, user := range invited {
		if !exchange.ValidUser(user) {
			continue
		}
		if err := noteMembership(ctx, dev, room, id.UserID(user), membershipInvite); err != nil {
			return err
		}
	}
	return nil
}
