package interceptors

import (
	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// Redactions: PUT rooms/{roomId}/redact/{eventId}/{txnId}, and POST without the transaction
// ID. They are not encrypted in any room (requirement 19.6), so unless a room is known to
// be plain they lose their reason, and are refused if they have anything more, see
// inclear.go. The room is not looked up for one that has only event IDs. There are no
// delayed ones (MSC4140).

// redact handles [Redact].
func (r *rooms) redact(x *Exchange) error {
	if delayed(x) {
		return apierr.InvalidParam("Redactions cannot be delayed: a homeserver would do this one at once.")
	}
	dev, err := device(x)
	if err != nil {
		return err
	}
	if r.clearTextAllowed(dev) {
		return x.Upstream.Forward(x)
	}
	room, err := roomParam(x)
	if err != nil {
		return err
	}
	raw, err := readOptionalObject(x)
	if err != nil {
		return err
	}
	if isBlank(raw) {
		putBack(x, raw)
		return x.Upstream.Forward(x)
	}
	bare, refused := inClear(typeRedaction, raw)
	if refused == nil && len(bare) == len(raw) {
		putBack(x, raw)
		return x.Upstream.Forward(x)
	}
	// It has more than the event ID: only where everything is in clear anyway.
	state, err := r.encryption(x, dev, room)
	switch {
	case err == nil && state == e2ee.RoomPlain:
		bare = raw
	case refused != nil && err != nil:
		return err
	case refused != nil:
		return refused
	}
	putBack(x, bare)
	return x.Upstream.Forward(x)
}
