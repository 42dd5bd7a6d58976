package interceptors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/controlroom"
	"e2ee-proxy/interceptors/internal/engineerr"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/interceptors/internal/rewrite"
)

// The control room in a sync response: one more room, among those that are joined or, once,
// among those that were left. The homeserver's tokens stay as they are; which of them a device
// syncs from says what it has seen (package e2ee). A room of that name from the homeserver is
// taken out (package rewrite).

// controlAdded is the room's entry; nil when there is none, or it was written.
type controlAdded struct {
	room  id.RoomID
	leave bool
	entry []byte
	// shows is the number of the last message, when the client gets all that are new to it.
	shows int64
}

// newControlAdded returns what passes the client's filter.
func newControlAdded(body *rewrite.Body, filter *filter.Filter, u *e2ee.ControlUpdate) controlAdded {
	if u == nil || !filter.WantsRoom(u.ID()) {
		return controlAdded{}
	}
	pass := func(events []json.RawMessage, show func(id.RoomID, []byte) []byte) []json.RawMessage {
		out := make([]json.RawMessage, 0, len(events))
		for _, e := range events {
			if shown := show(u.ID(), e); shown != nil {
				out = append(out, shown)
			}
		}
		return out
	}
	out := &bytes.Buffer{}
	out.WriteByte('{')
	if u.Whole {
		out.WriteString(`"state":{`)
		writeEvents(out, pass(u.State, body.ShownState))
		fmt.Fprintf(out, `},"summary":{"m.heroes":[%q],"m.joined_member_count":2,"m.invited_member_count":0},`, e2ee.ControlSender)
	}
	lines, shows := pass(u.Timeline, body.Shown), int64(0)
	if len(lines) > 0 && len(lines) == len(u.Timeline) && !u.Leave {
		shows = u.Last
	}
	out.WriteString(`"timeline":{`)
	writeEvents(out, lines)
	fmt.Fprintf(out, `,"limited":%t,"prev_batch":%q},"ephemeral":{`, u.Limited, controlroom.TokenOf(u.Before))
	writeEvents(out, u.Ephemeral)
	out.WriteString(`},"account_data":{`)
	writeEvents(out, u.AccountData)
	fmt.Fprintf(out, `},"unread_notifications":{"notification_count":%d,"highlight_count":0}}`, u.Unread())
	return controlAdded{u.ID(), u.Leave, out.Bytes(), shows}
}

// write writes the entry if it belongs into the section, behind others.
func (c *controlAdded) write(out *bytes.Buffer, leave bool) {
	if c.entry == nil || c.leave != leave {
		return
	}
	if out.Len() > 0 && out.Bytes()[out.Len()-1] == '}' {
		out.WriteByte(',')
	}
	writeName(out, string(c.room))
	out.Write(c.entry)
	c.entry = nil
}

// withState returns the update for a client that asks for the state of all its rooms, as one does
// that was started anew with an old token.
func withState(x *Exchange, dev Device, u *e2ee.ControlUpdate) (*e2ee.ControlUpdate, error) {
	room := dev.ControlRoom()
	if u != nil && (u.Leave || u.Whole) || !room.On() {
		return u, nil
	}
	if u == nil {
		view, err := room.View(x.Request.Context())
		if errors.Is(err, e2ee.ErrNoControlRoom) || err == nil && view.Left {
			return nil, nil
		}
		if err != nil {
			return nil, engineerr.For(fmt.Errorf("look at the control room: %w", err))
		}
		u = &e2ee.ControlUpdate{View: view, Before: view.Last + 1}
	}
	u.Whole, u.State = true, u.View.State()
	return u, nil
}
