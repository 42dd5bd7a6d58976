package exchange

import (
	"net/url"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/engineerr"
)

// Device returns the device of the exchange.
func (x *Exchange) Device() (Device, error) {
	dev, err := x.Devices.Device(x.Request.Context(), x.Identity)
	if err != nil {
		return nil, engineerr.For(err)
	}
	return dev, nil
}

// RoomParam returns the room in the path. A second spelling of a room ID is refused: rooms
// are looked up by their ID, byte for byte.
func (x *Exchange) RoomParam() (id.RoomID, error) {
	room := x.Endpoint.Params["roomId"]
	if !ValidRoom(room) {
		return "", apierr.InvalidParam("{roomId} in the path is not a room ID.").WithHint("One looks like !room:example.org.")
	}
	return id.RoomID(room), nil
}

// ValidRoom reports whether a text can be a room ID.
func ValidRoom(room string) bool {
	return len(room) > 1 && len(room) <= 255 && room[0] == '!' &&
		strings.IndexFunc(room, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '�' }) < 0
}

// ValidUser reports whether a text can be a user ID in a body or state key. Historical IDs
// have few rules.
func ValidUser(user string) bool {
	return len(user) > 2 && len(user) <= 255 && user[0] == '@' && strings.IndexByte(user, ':') > 0
}

// IdentityQuery returns the parameters of a query that say who asks.
func IdentityQuery(query url.Values) url.Values {
	out := url.Values{}
	for _, name := range []string{"user_id", "device_id", "org.matrix.msc3202.device_id"} {
		if v := query[name]; len(v) > 0 {
			out[name] = v
		}
	}
	return out
}
