package interceptors

import "e2ee-proxy/e2ee"

// Redactions: PUT rooms/{roomId}/redact/{eventId}/{txnId}, and POST without the
// transaction ID. They are not encrypted in any room (requirement 19.6), so the reason
// of a redaction is readable by the homeserver. Nothing else is let through in clear.

// redact handles [Redact].
func (r *rooms) redact(x *Exchange) error {
	dev, err := device(x)
	if err != nil {
		return err
	}
	if dev.Mode() == e2ee.ModeForeign {
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
	putBack(x, raw)
	if isBlank(raw) {
		return x.Upstream.Forward(x)
	}
	content, err := parseObject(raw)
	if err == nil && checkRedaction(content) == nil {
		return x.Upstream.Forward(x)
	}
	// It says more than a redaction does: only where everything is in clear anyway.
	state, lookup := r.encryption(x, dev, room)
	if lookup != nil {
		return lookup
	}
	if state == e2ee.RoomPlain {
		return x.Upstream.Forward(x)
	}
	if err != nil {
		return err
	}
	return checkRedaction(content)
}
