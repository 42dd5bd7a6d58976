package e2ee

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/controlroom"
	"e2ee-proxy/e2ee/internal/wire"
)

type (
	// ControlRoom is an account's control room, with one of its devices; see package controlroom.
	ControlRoom = controlroom.Handle
	// ControlView is the room as it is, ControlRecord what is stored of it, ControlLine something
	// that was said in it, ControlUpdate what a sync response says of it, ControlGiven what a
	// device has been handed of it.
	ControlView   = controlroom.View
	ControlRecord = controlroom.Room
	ControlLine   = controlroom.Line
	ControlUpdate = controlroom.Update
	ControlGiven  = controlroom.Given
)

// ControlSender speaks for the proxy in control rooms, and has this name, like the rooms.
const (
	ControlSender = controlroom.Sender
	ControlName   = controlroom.Name
)

// Reasons why a control room is not shown or written to.
var (
	ErrNoControlRoom   = controlroom.ErrNone
	ErrControlRoomLeft = controlroom.ErrLeft
)

// IsControlRoom reports whether a text is the ID of a control room, somebody's; ControlRoomOf
// returns that of a user, and ControlEventOf the ID of what a device sends to it.
func IsControlRoom(name string) bool { return controlroom.IsRoom(name) }

// ControlRoomOf is described at IsControlRoom.
func ControlRoomOf(user id.UserID) id.RoomID { return controlroom.RoomOf(user) }

// ControlEventOf is described at IsControlRoom.
func ControlEventOf(user id.UserID, dev id.DeviceID, txn string) id.EventID {
	return controlroom.IDOf(user, dev, txn)
}

// ControlText returns a message of the proxy's.
func ControlText(body string) json.RawMessage { return controlroom.Text(body) }

// TypeMoved is the type of what is written so that the homeserver's tokens move, see moves.go.
const TypeMoved = wire.TypeMoved

// Arrivals returns a context that is done when something for the device's client arrives. It is
// taken before one looks for what is there.
func (d *Device) Arrivals() context.Context { return d.clientState.arrivals() }

// ControlRoom returns the account's control room as the device is shown it.
func (d *Device) ControlRoom() ControlRoom { return d.acct.control.Of(d.core) }

// RestoreStatus returns how far the whole history's keys are fetched; nil when that was not
// asked for.
func (d *Device) RestoreStatus() *RestoreStatus { return d.backups.RestoreStatus() }

// ControlExtras is what the proxy adds to a sync response because of the control room.
type ControlExtras struct {
	// Control is what is said of the room; nil: nothing.
	Control *ControlUpdate
}

// PlainToken returns the homeserver's part of a token that a client was given by an earlier
// version.
func PlainToken(token string) string { return controlroom.Plain(token) }
