package interceptors

import (
	"errors"
	"net/http"
	"net/url"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
)

// A token without a device has nobody in the engine who knows its rooms. It may be an
// application service that speaks for one of its users, which its query says; so the
// question goes to the homeserver as its own request would.

// askEncryption asks the homeserver whether a room is encrypted, in the name of x.
func (r *rooms) askEncryption(x *Exchange, room id.RoomID) (e2ee.RoomEncryption, error) {
	if _, ok := r.order.noted(room); ok {
		return e2ee.RoomEncrypted, nil
	}
	asking := *x
	asking.Request = x.Request.Clone(x.Request.Context())
	asking.Request.Body, asking.Request.ContentLength = http.NoBody, 0
	resp, err := x.Upstream.Do(&asking, Change{
		Method:  http.MethodGet,
		Pattern: "/_matrix/client/v3/rooms/{roomId}/state/{eventType}",
		Params:  map[string]string{"roomId": room.String(), "eventType": typeEncryption},
		Query:   whoQuery(x.Request.URL.Query()),
	})
	if err != nil {
		return e2ee.RoomUnknown, lookupError(err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
		raw := peek(resp)
		content, err := parseObject(raw)
		if err != nil {
			return e2ee.RoomUnknown, CannotEncrypt(false, errors.New("the room's encryption is not readable"))
		}
		switch content.text("algorithm") {
		case "": // Dendrite 0.15.2 shows another event to those who are not in a room without one
			return e2ee.RoomUnknown, CannotEncrypt(false, errors.New("the homeserver shows another event"))
		case megolm:
		default:
			return e2ee.RoomUnsupported, nil
		}
		r.order.note(room, raw)
		return e2ee.RoomEncrypted, nil
	case http.StatusNotFound:
		if answer(resp).text("errcode") == CodeNotFound {
			return e2ee.RoomPlain, nil
		}
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests:
		return e2ee.RoomUnknown, FromResponse(resp)
	}
	return e2ee.RoomUnknown, CannotEncrypt(false, errors.New("the room's encryption cannot be read: status "+http.StatusText(resp.StatusCode)))
}

// whoQuery keeps of a query what says who asks.
func whoQuery(query url.Values) url.Values {
	out := url.Values{}
	for _, name := range []string{"access_token", "user_id", "device_id", "org.matrix.msc3202.device_id"} {
		if v := query[name]; len(v) > 0 {
			out[name] = v
		}
	}
	return out
}
