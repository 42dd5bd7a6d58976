package interceptors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/exchange"
)

// noRoom is a control room that there is not.
type noRoom struct{ exchange.ControlRoom }

func (noRoom) On() bool { return false }

func (noRoom) View(context.Context) (*e2ee.ControlView, error) { return nil, e2ee.ErrNoControlRoom }

func (*fakeDevice) ControlRoom() exchange.ControlRoom { return noRoom{} }
func (d *readDevice) ControlRoom() exchange.ControlRoom {
	if d.room != nil {
		return d.room
	}
	return noRoom{}
}

func (*fakeDevice) RestoreStatus() *e2ee.RestoreStatus { return nil }
func (*readDevice) RestoreStatus() *e2ee.RestoreStatus { return nil }

// streamRoom is a control room with lines, each by who said it: "me" or "proxy", then its time.
type streamRoom struct {
	exchange.ControlRoom
	view  *e2ee.ControlView
	given [][2]int64
	last  map[string]int64 // how much of it each token has
}

func newStreamRoom(user id.UserID, lines ...string) *streamRoom {
	r := &streamRoom{view: &e2ee.ControlView{User: user, Device: "DEV", Room: &e2ee.ControlRecord{Opened: 1}}, last: map[string]int64{}}
	for _, line := range lines {
		who, at, _ := strings.Cut(line, "@")
		ms, _ := strconv.ParseInt(at, 10, 64)
		r.says(who, ms)
	}
	return r
}

func (r *streamRoom) says(who string, at int64) {
	r.view.Last++
	n := r.view.Last
	r.view.Lines = append(r.view.Lines, e2ee.ControlLine{
		Seq: n, ID: id.EventID(fmt.Sprintf("$c%d:e2ee-proxy.invalid", n)), At: at, Mine: who == "me", Type: "m.room.message", Content: e2ee.ControlText(fmt.Sprint("said ", n)),
	})
}

func (*streamRoom) On() bool { return true }

func (r *streamRoom) Given() e2ee.ControlGiven { return e2ee.ControlGiven{} }

func (r *streamRoom) Said(context.Context, e2ee.ControlLine) (bool, error) { return false, nil }

func (r *streamRoom) Redact(context.Context, id.EventID, id.EventID, string) (bool, error) {
	return true, nil
}

func (r *streamRoom) Leave(context.Context) error { return nil }

func (r *streamRoom) Join(context.Context) error { return nil }

func (r *streamRoom) MarkRead(context.Context, id.EventID) error { return nil }

func (r *streamRoom) SetData(context.Context, string, json.RawMessage) error { return nil }

func (r *streamRoom) View(context.Context) (*e2ee.ControlView, error) { return r.view, nil }

func (r *streamRoom) Give(from, to int64) { r.given = append(r.given, [2]int64{from, to}) }

func (r *streamRoom) Waiting(_ context.Context, token string) (bool, error) {
	return r.last[token] < r.view.Last, nil
}

func (r *streamRoom) Alone(ctx context.Context, token string) (*e2ee.ControlUpdate, string, error) {
	end := fmt.Sprint("control-room-", r.view.Last)
	u, err := r.Stream(ctx, token, end)
	return u, end, err
}

func (r *streamRoom) Stream(_ context.Context, token, next string) (*e2ee.ControlUpdate, error) {
	have := r.last[token]
	if next == token {
		return nil, nil
	}
	if have == r.view.Last {
		r.last[next] = have
		return nil, nil
	}
	r.last[next] = r.view.Last
	u := &e2ee.ControlUpdate{View: r.view, Whole: token == ""}
	if u.Whole {
		u.State = r.view.State()
	}
	for i := range r.view.Lines[have:] {
		u.Timeline = append(u.Timeline, r.view.Event(&r.view.Lines[have+int64(i)]))
	}
	return u, nil
}

// streamEvents is a request for events of a device with such a room.
type streamEvents struct {
	room exchange.ControlRoom
	from string
	move func() error
}

func (d *readDevice) BeginEvents(from string) exchange.ClientEvents {
	return &streamEvents{d.ControlRoom(), from, d.move}
}

func (*fakeDevice) BeginEvents(string) exchange.ClientEvents { return &streamEvents{} }

func (*streamEvents) Leaving() bool            { return false }
func (*streamEvents) Arrived() context.Context { return context.Background() }
func (e *streamEvents) News(ctx context.Context) (bool, error) {
	return e.room.Waiting(ctx, e.from)
}
func (e *streamEvents) MoveIn() time.Duration { return 0 }
func (e *streamEvents) Stood()                {}
func (e *streamEvents) Move(context.Context) error {
	if e.move == nil {
		return errors.New("the token is not moved")
	}
	return e.move()
}
