package interceptors

import (
	"context"
	"net/http"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/strictjson"
)

// Matrix names used by more than one file.
const (
	typeEncryption = "m.room.encryption"
	typeEncrypted  = "m.room.encrypted"
	typeMember     = "m.room.member"
	typeVisibility = "m.room.history_visibility"
	typeReaction   = "m.reaction"
	typeRedaction  = "m.room.redaction"
	typeMessage    = "m.room.message"
	// msgtypeVerification is that of a message by which a verification is asked for.
	msgtypeVerification = "m.key.verification.request"
	typeSticker         = "m.sticker"

	megolm = string(id.AlgorithmMegolmV1)

	membershipInvite = "invite"
	membershipJoin   = "join"
	membershipLeave  = "leave"
	membershipBan    = "ban"
	membershipKnock  = "knock"
)

// rooms holds the handlers of everything that writes to rooms.
type rooms struct {
	order *roomOrder
	files *attachments
	// claimed are rooms that were found for requests that may have been done.
	claimed claimedRooms
	// mails let invitations by e-mail go one after the other.
	mails mailTurns
	// nativeClearText lets devices with keys of their own send in clear everywhere.
	nativeClearText bool
}

// clearTextAllowed reports whether policy.native_clear_text allows the device to send in clear: it
// does for devices with keys of their own, and for no others.
func (r *rooms) clearTextAllowed(dev Device) bool {
	return r.nativeClearText && dev.Mode() == e2ee.ModeForeign
}

// forwardThen sends the request on with body, as the client sent it, calls done with the members of a 200, and
// relays the answer. The context of done outlives the client: what the homeserver
// accepted is recorded whether or not anybody waits for it. When it cannot be
// recorded, the client is told of an error rather than that all is well; to repeat
// any of these requests is harmless.
func forwardThen(x *Exchange, body []byte, done func(ctx context.Context, answer strictjson.Object) error) error {
	x.PutBack(body)
	resp, err := x.Upstream.Do(x, Change{})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusOK {
		if err := done(context.WithoutCancel(x.Request.Context()), exchange.AnswerObject(resp)); err != nil {
			return err
		}
	}
	return x.Upstream.Relay(x, resp)
}
