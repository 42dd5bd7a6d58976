package controlroom

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/control"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/exchange"
)

// Options is what the rooms need.
type Options struct {
	// Limits are those of the control API.
	Limits *control.Limits
	// Work runs what takes longer than a request; nil: nothing does.
	Work *Work
	// Open returns a file that the client has uploaded, for keys in a file; nil for one that is
	// not known.
	Open func(x *exchange.Exchange, uri string) (*File, error)
}

// Rooms are the control rooms of all accounts.
type Rooms struct {
	opt     Options
	talks   *talks
	exports *exports
}

// New returns rooms in which nobody has asked anything yet.
func New(o Options) (*Rooms, error) {
	talks, err := newTalks()
	if err != nil {
		return nil, err
	}
	exports, err := newExports()
	if err != nil {
		return nil, err
	}
	return &Rooms{opt: o, talks: talks, exports: exports}, nil
}

// call is one request about the room of the user who makes it.
type call struct {
	*exchange.Exchange
	dev  exchange.Device
	room exchange.ControlRoom
	view *e2ee.ControlView
}

// RoomParam returns the room that a request's path names; empty when it names none.
func RoomParam(x *exchange.Exchange) string {
	for _, name := range [...]string{"roomId", "roomIdOrAlias", "ruleId"} {
		if room := x.Endpoint.Params[name]; e2ee.IsControlRoom(room) {
			return room
		}
	}
	return ""
}

// Serve answers a request whose path names a control room.
func (r *Rooms) Serve(x *exchange.Exchange) error {
	c, err := r.begin(x)
	if err != nil {
		return err
	}
	_, what, _ := strings.Cut(x.Endpoint.Pattern, "/rooms/{roomId}")
	switch p := x.Endpoint.Pattern; {
	case strings.Contains(p, "/join/{roomIdOrAlias}"):
		what = "/join"
	case strings.Contains(p, "summary"):
		what = "/summary"
	case strings.Contains(p, "/pushrules/") && x.Request.Method != http.MethodPut:
		return apierr.NotFound("There is no such rule.")
	case strings.Contains(p, "/pushrules/"):
		return apierr.Forbidden("This room has no rules of its own for notifications.").WithHint("Leave it if you do not want it: it comes back when there is something that you must know.")
	}
	if x.Request.Method == http.MethodGet {
		return r.read(c, what)
	}
	return r.write(c, what)
}

// begin returns the call of a user who asks for a room that is theirs.
func (r *Rooms) begin(x *exchange.Exchange) (*call, error) {
	dev, err := x.Device()
	if err != nil {
		return nil, err
	}
	if name := RoomParam(x); name != string(e2ee.ControlRoomOf(x.Identity.UserID)) {
		return nil, notHere()
	}
	if user := x.Endpoint.Params["userId"]; user != "" && user != string(x.Identity.UserID) {
		return nil, apierr.Forbidden("You can do this only for yourself.")
	}
	c := &call{Exchange: x, dev: dev, room: dev.ControlRoom()}
	if c.view, err = c.room.View(x.Request.Context()); err != nil {
		return nil, clientError(err)
	}
	return c, nil
}

func notHere() error {
	return apierr.Forbidden("You are not in this room.")
}

// clientError turns an error of the room into one for the client.
func clientError(err error) error {
	switch {
	case errors.Is(err, e2ee.ErrNoControlRoom):
		return notHere()
	case errors.Is(err, e2ee.ErrControlRoomLeft):
		return apierr.Forbidden("You have left this room.").WithHint("It comes back when there is something that you must know, or when you join it again.")
	}
	return engineerr.For(fmt.Errorf("use the control room: %w", err))
}

// Joined returns the room among those that a user is in; empty when the user is not.
func Joined(x *exchange.Exchange, dev exchange.Device) (id.RoomID, error) {
	room := dev.ControlRoom()
	if !room.On() {
		return "", nil
	}
	view, err := room.View(x.Request.Context())
	switch {
	case errors.Is(err, e2ee.ErrNoControlRoom):
		return "", nil
	case err != nil:
		return "", clientError(err)
	case view.Left:
		return "", nil
	}
	return view.ID(), nil
}
