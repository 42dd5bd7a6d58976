package interceptors

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
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
	dev, err := x.Device()
	if err != nil {
		return err
	}
	if r.clearTextAllowed(dev) {
		return forwardOnce(x)
	}
	room, err := x.RoomParam()
	if err != nil {
		return err
	}
	raw, err := x.ReadObjectOrNull()
	if err != nil {
		return err
	}
	if exchange.IsBlank(raw) {
		return forwardRedaction(x, dev, raw)
	}
	bare, refused := inClear(typeRedaction, raw)
	if refused == nil && len(bare) == len(raw) {
		return forwardRedaction(x, dev, raw)
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
	return forwardRedaction(x, dev, bare)
}

// forwardRedaction sends a redaction on, and forgets the files of what was redacted after a
// while.
func forwardRedaction(x *Exchange, dev Device, raw []byte) error {
	x.PutBack(raw)
	if dev.Mode() != e2ee.ModeProxied {
		return forwardOnce(x)
	}
	resp, err := x.Upstream.Do(x, once(x))
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		if err := dev.Files().Redacted(context.WithoutCancel(x.Request.Context()), id.EventID(x.Endpoint.Params["eventId"])); err != nil {
			return errors.Join(fmt.Errorf("forget the files of an event: %w", err), resp.Body.Close())
		}
	}
	return x.RelayAndClose(resp)
}
