package e2ee

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/controlroom"
	"e2ee-proxy/e2ee/internal/moves"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
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

// TypeMoved is the type of what is written so that the homeserver's tokens move, see package moves.
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

// kept is what is kept for a device's client, but notices and the control room.
type kept struct {
	ready []store.PendingEvent // late events
	due   []store.PendingEvent // held ones, whose time is over
	inbox []store.InboxItem    // to-device events
}

func (s *ClientSync) load(ctx context.Context) (k kept, err error) {
	if k.ready, err = s.d.late.Ready(ctx); err != nil {
		return k, err
	}
	if k.inbox, err = s.d.core.Env.Store.Inbox(ctx, s.d.acct.Row, s.d.core.RowID, maxKept); err != nil {
		return k, fmt.Errorf("load to-device events for the client: %w", err)
	}
	k.due, err = s.d.late.Due(ctx)
	return k, err
}

// only returns what was shown with an answer that ended with a token.
func (k *kept) only(next string) kept {
	return kept{
		slices.DeleteFunc(slices.Clone(k.ready), func(p store.PendingEvent) bool { return p.DeliveredAt != next }),
		slices.DeleteFunc(slices.Clone(k.due), func(p store.PendingEvent) bool { return p.PlacedAt != next }),
		slices.DeleteFunc(slices.Clone(k.inbox), func(i store.InboxItem) bool { return i.DeliveredAt != next }),
	}
}

func (k *kept) len() int { return len(k.ready) + len(k.due) + len(k.inbox) }

// give returns what belongs into an answer that ends with a token, and whether the client was
// given that before: then it stands for what was shown with it then. By the token that the client
// came with nothing can be told apart.
func (s *ClientSync) give(ctx context.Context, next string) (k kept, told bool, err error) {
	s.d.core.Mu.Lock()
	told = s.d.clientState.moves.Tell(next)
	s.d.core.Mu.Unlock()
	if next == s.since {
		return kept{}, told, nil
	}
	if k, err = s.load(ctx); err == nil && told {
		k = k.only(next)
	}
	return k, told, err
}

// News reports whether there is something for the client that its answer may have only with
// another token than the client has.
func (s *ClientSync) News(ctx context.Context) (bool, error) {
	k, err := s.load(ctx)
	if err != nil {
		return false, err
	}
	return s.news(ctx, &k)
}

func (s *ClientSync) news(ctx context.Context, k *kept) (bool, error) {
	if s.since == "" && k.len() > 0 {
		return true, nil
	}
	if got := k.only(s.since); got.len() < k.len() {
		return true, nil
	}
	if waiting, err := s.d.shown.Waiting(ctx, s.since); err != nil || waiting {
		return waiting, err
	}
	return s.d.acct.control.Waiting(ctx, s.d.core, s.token)
}

// Stands reports whether an answer that ends with a token cannot have all that there is for the
// client: it is the client's own, or was given to it before, with less.
func (s *ClientSync) Stands(ctx context.Context, next string) (bool, error) {
	if next == s.since {
		if !s.waiting && s.arrived.Err() == nil {
			return false, nil // nothing was there, and nothing has come
		}
		return s.News(ctx)
	}
	if !s.d.clientState.wasTold(next) {
		return false, nil
	}
	k, err := s.load(ctx)
	if err != nil {
		return false, err
	}
	if with := k.only(next); with.len() < k.len() {
		return true, nil
	}
	if stands, err := s.d.shown.Stands(ctx, s.since, next); err != nil || stands {
		return stands, err
	}
	return s.d.acct.control.Waiting(ctx, s.d.core, next)
}

// MoveIn returns how long the homeserver's token cannot be moved; zero when it can be now.
func (s *ClientSync) MoveIn() time.Duration { return s.d.clientState.moveIn(s.since) }

// Stood records that the token has not moved although it should have.
func (s *ClientSync) Stood() { s.d.clientState.moveFailed(moves.ErrNot) }

// Move has the homeserver's token move, so that a sync that waits there ends.
func (s *ClientSync) Move(ctx context.Context) error {
	to := map[id.DeviceID]any{s.d.core.ID: struct{}{}}
	return s.d.clientState.move(ctx, s.since, wire.Request{
		Op: "move the token of syncs", Method: http.MethodPut,
		Path: mautrix.ClientURLPath{"v3", "sendToDevice", wire.TypeMoved, rand.Text()},
		Body: map[string]any{"messages": map[id.UserID]any{s.d.acct.User: to}},
	})
}

// wasTold reports whether a client was given a token.
func (c *clientState) wasTold(token string) bool {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	return c.moves.Told(token)
}

// moveIn returns for how long no move may be made from a token.
func (c *clientState) moveIn(from string) time.Duration {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	return c.moves.In(from, c.Env.Now())
}

// moveFailed records that a token has not moved.
func (c *clientState) moveFailed(err error) {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.moves.Failed(err, c.Env.Now())
}

// move makes a move, if one may be made.
func (c *clientState) move(ctx context.Context, from string, r wire.Request) error {
	c.Mu.Lock()
	err := c.moves.Begin(from, c.Env.Now())
	c.Mu.Unlock()
	if err != nil {
		return err
	}
	bound, cancel := context.WithTimeout(ctx, moves.Takes)
	defer cancel()
	err = c.Call(bound, r)
	if err != nil && ctx.Err() == nil { // else the client has gone
		c.moveFailed(err)
	}
	return err
}

// ClientEvents is a request of the client for events, the old way to sync, which is told of the
// control room only.
type ClientEvents struct {
	d       *Device
	from    string
	arrived context.Context //nolint:containedctx // as a channel would be
}

// BeginEvents is called before a request for the events from a token goes to the homeserver.
func (d *Device) BeginEvents(from string) *ClientEvents {
	return &ClientEvents{d, from, d.clientState.arrivals()}
}

// Arrived is [ClientSync.Arrived], and so are those that follow.
func (e *ClientEvents) Arrived() context.Context { return e.arrived }

// Leaving is described at Arrived.
func (e *ClientEvents) Leaving() bool { return e.d.acct.tenure.IsLeaving() }

// News is described at Arrived.
func (e *ClientEvents) News(ctx context.Context) (bool, error) {
	return e.d.acct.control.Waiting(ctx, e.d.core, e.from)
}

// MoveIn is described at Arrived.
func (e *ClientEvents) MoveIn() time.Duration { return e.d.clientState.moveIn(e.from) }

// Stood is described at Arrived.
func (e *ClientEvents) Stood() { e.d.clientState.moveFailed(moves.ErrNot) }

// Move is described at Arrived. The tokens of events do not count to-device messages; they count
// account data.
func (e *ClientEvents) Move(ctx context.Context) error {
	return e.d.clientState.move(ctx, e.from, wire.Request{
		Op: "move the token of events", Method: http.MethodPut,
		Path: mautrix.ClientURLPath{"v3", "user", e.d.acct.User, "account_data", wire.TypeMoved},
		Body: struct{}{},
	})
}
