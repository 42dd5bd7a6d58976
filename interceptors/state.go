package interceptors

import (
	"context"
	"net/http"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// State events: PUT rooms/{roomId}/state/{eventType}[/{stateKey}]. State is not encrypted
// (requirement 20.1) and passes, except:
//   - m.room.encryption: anything but m.megolm.v1.aes-sha2 is refused, so that nobody
//     switches encryption off or to an unknown algorithm (requirements 0.8, 20.2), and so
//     is a delayed one, of which nobody knows when it holds. Once the homeserver has
//     accepted it every send is encrypted, and sends that come while it is under way wait
//     for it.
//   - m.room.member and m.room.history_visibility are recorded in the engine once accepted.
//   - types that are messages and never state are refused in a room that is not known to be
//     plain: a client that sends one this way would send it in clear. See messagetypes.go.
//
// Clients that do their own encryption pass untouched, except for messages in clear, for
// reasons, and for another algorithm in a room that is encrypted; that they encrypted a room is
// recorded for all accounts.

// putState handles [PutState].
func (r *rooms) putState(x *Exchange) error {
	if err := checkDelay(x); err != nil {
		return err
	}
	dev, err := x.Device()
	if err != nil {
		return err
	}
	eventType, key := x.Endpoint.Params["eventType"], x.Endpoint.Params["stateKey"]
	if dev.Mode() == e2ee.ModeForeign && r.passesNative(eventType, key) {
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
	if raw, err = r.files.inClear(x, dev, raw); err != nil {
		return err
	}
	switch {
	case eventType == typeEncryption && key == "":
		return r.putEncryption(x, dev, room, raw)
	case eventType == typeMember:
		return r.putMember(x, dev, room, key, raw)
	case eventType == typeVisibility && key == "":
		return putVisibility(x, dev, room, raw)
	case isMessageType(eventType):
		state, err := r.encryption(x, dev, room)
		if err != nil {
			return err
		}
		if state != e2ee.RoomPlain {
			return messageAsState()
		}
	}
	x.PutBack(raw)
	return x.Upstream.Forward(x)
}

// passesNative reports whether state of a device with keys of its own passes unread.
func (r *rooms) passesNative(eventType, key string) bool {
	switch {
	case eventType == typeEncryption && key == "":
		return false
	case eventType == typeEncrypted: // its client made it
		return true
	}
	return r.nativeClearText || !isMessageType(eventType) && eventType != typeMember
}

// putEncryption encrypts a room, or changes the limits of its rotation.
func (r *rooms) putEncryption(x *Exchange, dev Device, room id.RoomID, raw []byte) error {
	if dev.Mode() == e2ee.ModeForeign {
		if err := r.keepsEncryption(x, dev, room, raw); err != nil {
			return err
		}
	} else {
		content, err := exchange.ParseObject(raw)
		if err != nil {
			return err
		}
		if err := checkAlgorithm(content); err != nil {
			return err
		}
		if delayed(x) {
			return apierr.InvalidParam("Encryption of a room cannot be switched on later: send the event without a delay.")
		}
	}
	leave, err := r.order.encrypt(x.Request.Context(), x.Identity.UserID, room)
	if err != nil {
		return err
	}
	defer leave()
	// The result must be recorded also when the client does not wait for it: until then the
	// user's sends to the room are held up, and after it they are decided.
	ctx := context.WithoutCancel(x.Request.Context())
	detached := *x
	detached.Request = x.Request.WithContext(ctx)
	detached.PutBack(raw)
	resp, err := x.Upstream.Do(&detached, Change{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusOK && !delayed(x) {
		if err := r.noteEncryption(ctx, x, dev, room, raw); err != nil {
			return err
		}
	}
	leave()
	return x.Upstream.Relay(x, resp)
}

// keepsEncryption refuses to change the algorithm of a room that is or ever was encrypted. A
// client with keys of its own may know others than the proxy, so that it may encrypt a plain
// room with whatever it likes.
func (r *rooms) keepsEncryption(x *Exchange, dev Device, room id.RoomID, raw []byte) error {
	if r.nativeClearText {
		return nil
	}
	state, err := r.encryption(x, dev, room)
	if err != nil {
		return err
	}
	switch state {
	case e2ee.RoomPlain:
		return nil
	case e2ee.RoomEncrypted:
		content, err := exchange.ParseObject(raw)
		if err != nil {
			return err
		}
		return checkAlgorithm(content)
	case e2ee.RoomUnsupported:
		content, err := exchange.ParseObject(raw)
		if err != nil {
			return err
		}
		if content.TextOrEmpty("algorithm") != "" {
			return nil
		}
		return checkAlgorithm(content)
	case e2ee.RoomUnknown:
	}
	return apierr.CannotEncrypt(false, nil)
}

// noteEncryption records an encryption event that the homeserver accepted, for this device
// and for all accounts.
func (r *rooms) noteEncryption(ctx context.Context, x *Exchange, dev Device, room id.RoomID, content []byte) error {
	if dev.Mode() != e2ee.ModeProxied {
		return engineerr.For(x.Devices.NoteEncryption(ctx, room, content))
	}
	return engineerr.For(dev.NoteEncryption(ctx, room, content))
}

// checkAlgorithm refuses every algorithm but m.megolm.v1.aes-sha2.
func checkAlgorithm(content strictjson.Object) error {
	if content.TextOrEmpty("algorithm") == megolm {
		return nil
	}
	return engineerr.RefuseEncrypted("The encryption of a room cannot be switched off or changed, and the proxy knows no algorithm but "+megolm+".",
		"Send m.room.encryption with that algorithm; for clear conversations use another room.")
}

// putMember passes a membership event, which some bridges send to change a name. Its reason
// is treated as by the endpoint for the same membership.
func (r *rooms) putMember(x *Exchange, dev Device, room id.RoomID, user string, raw []byte) error {
	content, err := exchange.ParseObject(raw)
	if err != nil {
		return err
	}
	membership := content.TextOrEmpty("membership")
	if user == x.Identity.UserID.String() && membership != membershipKnock {
		if raw, err = r.withoutReason(x, dev, raw); err != nil {
			return err
		}
	}
	switch {
	case delayed(x):
	case membership == membershipInvite:
		shareHistory(x, dev, room, user)
	case membership == membershipJoin && user == x.Identity.UserID.String():
		beforeJoin(x, dev)
	}
	return forwardThen(x, raw, func(ctx context.Context, _ strictjson.Object) error {
		if delayed(x) || membership == "" || !exchange.ValidUser(user) {
			return nil
		}
		return noteMembership(ctx, dev, room, id.UserID(user), membership)
	})
}

// putVisibility passes a change of history visibility, after which room keys are rotated
// and may be shared with other people (requirement 17.2).
func putVisibility(x *Exchange, dev Device, room id.RoomID, raw []byte) error {
	content, err := exchange.ParseObject(raw)
	if err != nil {
		return err
	}
	return forwardThen(x, raw, func(ctx context.Context, _ strictjson.Object) error {
		if delayed(x) || content.TextOrEmpty("history_visibility") == "" {
			return nil
		}
		return noteVisibility(ctx, dev, room, content.TextOrEmpty("history_visibility"))
	})
}

// noteVisibility records a history visibility that the homeserver accepted in the engine.
func noteVisibility(ctx context.Context, dev Device, room id.RoomID, visibility string) error {
	if dev.Mode() != e2ee.ModeProxied {
		return nil
	}
	return engineerr.For(dev.NoteVisibility(ctx, room, visibility))
}
