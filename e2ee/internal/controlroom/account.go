package controlroom

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/store"
)

// ErrNone means that the account has no control room.
var ErrNone = errors.New("the account has no control room")

// Account is an account's room. Its own lock guards it; changes are made one at a time.
type Account struct {
	*core.Account
	// warnings returns those that hold; wake ends the waiting syncs of the account's clients.
	warnings func(context.Context) ([]notices.Warning, error)
	wake     func()

	turn locks.Turns[struct{}]
	mu   locks.Mutex
	room *Room // nil before it was read; what it points to never changes
	// given is what the devices have been handed.
	given map[id.DeviceID]Given
	// tokens are those that the devices were given.
	tokens map[id.DeviceID]*tokens
	seed   maphash.Seed
}

// NewAccount returns the room of an account. wake is called while nothing is locked.
func NewAccount(acct *core.Account, warnings func(context.Context) ([]notices.Warning, error), wake func()) Account {
	order := acct.Env.Order
	return Account{
		Account: acct, warnings: warnings, wake: wake, seed: maphash.MakeSeed(),
		turn: locks.Turns[struct{}]{Place: order.At(locks.RankControl)}, mu: locks.Mutex{Place: order.At(locks.RankAccount)},
	}
}

// On reports whether a device is shown the room: its client's encryption is the proxy's, and
// the account's notices are not off.
func (a *Account) On(dev *core.Device) bool {
	if dev.Mode != core.ModeProxied {
		return false
	}
	s := a.Settings()
	return s.ControlRoom && !s.NoNotices
}

// read returns the room as it is now.
func (a *Account) read(ctx context.Context) (*Room, error) {
	a.mu.Lock()
	r := a.room
	a.mu.Unlock()
	if r != nil {
		return r, nil
	}
	raw, err := a.Env.Store.ControlRoom(ctx, a.Row)
	if err != nil {
		return nil, fmt.Errorf("load the control room: %w", err)
	}
	r = &Room{}
	if raw != nil && json.Unmarshal(raw.Reveal(), r) != nil {
		r = &Room{} // it begins anew
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.room == nil {
		a.room = r
	}
	return a.room, nil
}

// secretsFor is how long something that is told once stays: as long as the engine's own
// recovery key can be read through the control API.
const secretsFor = 24 * time.Hour

// secretsSince returns the time before which nothing secret that was told is there any more.
func (a *Account) secretsSince() int64 { return a.Env.Now().Add(-secretsFor).UnixMilli() }

// errSame ends a change that changes nothing.
var errSame = errors.New("nothing changes")

// change changes the room: a copy of it, which takes its place once it is stored, in a write
// of dev's.
func (a *Account) change(ctx context.Context, dev *core.Device, do func(*Room) error) (*Room, error) {
	give, err := a.turn.Take(ctx, struct{}{})
	if err != nil {
		return nil, fmt.Errorf("wait for the control room: %w", err)
	}
	defer give()
	was, err := a.read(ctx)
	if err != nil {
		return nil, err
	}
	r := was.clone()
	a.forgetSecrets(r, a.secretsSince())
	if err := do(r); err != nil {
		if errors.Is(err, errSame) {
			return was, nil
		}
		return nil, err
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the control room: %w", err)
	}
	if err := dev.Save(ctx, &store.Changes{ControlRoom: raw}); err != nil {
		return nil, fmt.Errorf("store the control room: %w", err)
	}
	a.mu.Lock()
	a.room = r
	a.mu.Unlock()
	return r, nil
}

// Handle is the room as it is used with one device of the account.
type Handle struct {
	a   *Account
	dev *core.Device
}

// Of returns the room for a device.
func (a *Account) Of(dev *core.Device) Handle { return Handle{a, dev} }

// On reports whether the device is shown the room.
func (h Handle) On() bool { return h.a.On(h.dev) }

// View returns the room as it is now: ErrNone when there is none.
func (h Handle) View(ctx context.Context) (*View, error) {
	if !h.On() {
		return nil, ErrNone
	}
	r, err := h.a.read(ctx)
	if err != nil {
		return nil, err
	}
	if r.Opened == 0 {
		return nil, ErrNone
	}
	return &View{r.without(h.a.secretsSince()), h.a.User, h.dev.ID}, nil
}

// within changes a room that there is, and wakes the account's clients.
func (h Handle) within(ctx context.Context, do func(*Room) error) error {
	if !h.On() {
		return ErrNone
	}
	_, err := h.a.change(ctx, h.dev, func(r *Room) error {
		if r.Opened == 0 {
			return ErrNone
		}
		return do(r)
	})
	if err == nil {
		h.a.wake()
	}
	return err
}

// ErrLeft means that the user has left the room.
var ErrLeft = errors.New("the user has left the control room")

// Said records what the user wrote. fresh is false if that is known already: it was sent with
// the same transaction ID.
func (h Handle) Said(ctx context.Context, l Line) (fresh bool, err error) {
	if len(l.Content) > maxContent {
		l.Content = Text("")
	}
	err = h.within(ctx, func(r *Room) error {
		if r.find(l.ID) >= 0 {
			return errSame
		}
		if r.Left {
			return ErrLeft
		}
		l.Mine, l.At, l.Device, fresh = true, h.a.Env.Now().UnixMilli(), h.dev.ID, true
		if l.Type == "" {
			l.Type = TypeMessage
		}
		r.add(l)
		return nil
	})
	return fresh && err == nil, err
}

// Tell says something to the user, and returns the event's ID. A room that was left stays so:
// nobody is told.
func (h Handle) Tell(ctx context.Context, content json.RawMessage) (event id.EventID, err error) {
	err = h.within(ctx, func(r *Room) error {
		if r.Left {
			return errSame
		}
		event = r.add(h.a.line(r, content)).ID
		return nil
	})
	return event, err
}

// TellOnce is Tell for something that does not stay: [Handle.ForgetSecrets] takes it out, and
// so does time.
func (h Handle) TellOnce(ctx context.Context, content json.RawMessage) (event id.EventID, err error) {
	err = h.within(ctx, func(r *Room) error {
		if r.Left {
			r.open(h.a.Env.Now().UnixMilli()) // it must not be lost
		}
		l := h.a.line(r, content)
		l.Secret = true
		event = r.add(l).ID
		return nil
	})
	return event, err
}

// ForgetSecrets takes out what was told once.
func (h Handle) ForgetSecrets(ctx context.Context) error {
	return h.within(ctx, func(r *Room) error {
		if !h.a.forgetSecrets(r, math.MaxInt64) {
			return errSame
		}
		return nil
	})
}

// ForgetOldSecrets takes out what was told once, and whose time is over. Nobody needs to use
// the room for that.
func (h Handle) ForgetOldSecrets(ctx context.Context) error {
	if !h.On() {
		return nil
	}
	r, err := h.a.read(ctx)
	if err != nil || !r.hasSecrets(h.a.secretsSince()) {
		return err
	}
	return h.within(ctx, func(*Room) error { return nil }) // every change takes them out
}

// forgetSecrets takes out what was told once before a time.
func (a *Account) forgetSecrets(r *Room, before int64) (any bool) {
	for i := 0; i < len(r.Lines); i++ {
		if l := &r.Lines[i]; l.Secret && l.At < before {
			l.Secret, any = false, true
			gone := a.line(r, Text(textSecretGone))
			gone.Replaces = l.ID
			r.add(gone)
			i = -1 // the lines have moved
		}
	}
	return any
}

// Change changes what was said.
func (h Handle) Change(ctx context.Context, event id.EventID, content json.RawMessage) error {
	return h.within(ctx, func(r *Room) error {
		if r.Left || r.find(event) < 0 {
			return errSame
		}
		l := h.a.line(r, content)
		l.Replaces = event
		r.add(l)
		return nil
	})
}

// Redact takes back one of the user's own messages. found is false if there is none.
func (h Handle) Redact(ctx context.Context, event, by id.EventID, txn string) (found bool, err error) {
	err = h.within(ctx, func(r *Room) error {
		i := r.find(event)
		if found = i >= 0 && r.Lines[i].Mine; !found {
			return errSame
		}
		if r.find(by) >= 0 || r.Lines[i].Redacted != "" {
			return errSame
		}
		r.Lines[i].Content, r.Lines[i].Redacted = object(), by
		r.add(Line{ID: by, At: h.a.Env.Now().UnixMilli(), Mine: true, Type: TypeRedaction, Content: object(), Txn: txn, Device: h.dev.ID, Redacts: event})
		return nil
	})
	return found, err
}

// Leave has the user leave the room, and Join come back.
func (h Handle) Leave(ctx context.Context) error {
	return h.within(ctx, func(r *Room) error {
		if r.Left {
			return errSame
		}
		r.Left, r.LeftAt = true, h.a.Env.Now().UnixMilli()
		return nil
	})
}

// Join is described at Leave.
func (h Handle) Join(ctx context.Context) error {
	return h.within(ctx, func(r *Room) error {
		if !r.Left {
			return errSame
		}
		r.open(h.a.Env.Now().UnixMilli())
		return nil
	})
}

// MarkRead records that the user has read the room up to an event.
func (h Handle) MarkRead(ctx context.Context, event id.EventID) error {
	return h.within(ctx, func(r *Room) error {
		i := r.find(event)
		if i < 0 || r.Lines[i].Seq <= r.Read {
			return errSame
		}
		r.Read, r.ReadAt = r.Lines[i].Seq, h.a.Env.Now().UnixMilli()
		return nil
	})
}

// SetData replaces account data of the room, such as its tags; what is too large is not kept.
func (h Handle) SetData(ctx context.Context, typ string, content json.RawMessage) error {
	return h.within(ctx, func(r *Room) error {
		size := len(typ) + len(content)
		for other, has := range r.Data {
			if other != typ {
				size += len(other) + len(has)
			}
		}
		if size > maxData {
			return errSame
		}
		if r.Data == nil {
			r.Data = make(map[string]json.RawMessage)
		}
		r.Data[typ] = slices.Clone(content)
		r.DataSeq++
		return nil
	})
}

// line returns a message of the proxy.
func (a *Account) line(r *Room, content json.RawMessage) Line {
	return Line{ID: lineID(a.User, r.Opened, r.Last+1), At: a.Env.Now().UnixMilli(), Type: TypeMessage, Content: content}
}
