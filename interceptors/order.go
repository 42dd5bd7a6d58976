package interceptors

import (
	"context"
	"sync"

	"maunium.net/go/mautrix/id"
)

// roomOrder makes sure that no clear text of a user reaches the homeserver after the same
// user's encryption event of the room: sends in clear are counted, the encryption event
// waits for them, and later sends wait for it.
//
// The order is kept for each user and room, so that nobody can block somebody else. Nothing
// is locked over the network: a waiting request can be cancelled.
type roomOrder struct {
	mu    sync.Mutex
	turns map[turnKey]*turn
}

type turnKey struct {
	user id.UserID
	room id.RoomID
}

// turn is in the map only while a request of its key is under way.
type turn struct {
	clear      int           // sends in clear that are under way
	encrypting bool          // an encryption event is under way, or waits to be
	changed    chan struct{} // closed when either of them changes
}

func newRoomOrder() *roomOrder { return &roomOrder{turns: map[turnKey]*turn{}} }

// send begins a send that may be in clear, after waiting for an encryption event of the
// same user that is under way. leave must be called, and may be called twice.
func (o *roomOrder) send(ctx context.Context, user id.UserID, room id.RoomID) (leave func(), err error) {
	key := turnKey{user, room}
	err = o.when(ctx, key, func(t *turn) bool {
		if t.encrypting {
			return false
		}
		t.clear++
		return true
	})
	if err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() { o.change(key, func(t *turn) { t.clear-- }) }), nil
}

// encrypt begins an encryption event, after waiting for the user's sends in clear to the
// room, and makes later ones wait. leave must be called, and may be called twice.
func (o *roomOrder) encrypt(ctx context.Context, user id.UserID, room id.RoomID) (leave func(), err error) {
	key := turnKey{user, room}
	err = o.when(ctx, key, func(t *turn) bool {
		if t.encrypting {
			return false
		}
		t.encrypting = true
		return true
	})
	if err != nil {
		return nil, err
	}
	leave = sync.OnceFunc(func() { o.change(key, func(t *turn) { t.encrypting = false }) })
	if err := o.when(ctx, key, func(t *turn) bool { return t.clear == 0 }); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// when waits until try succeeds.
func (o *roomOrder) when(ctx context.Context, key turnKey, try func(*turn) bool) error {
	for {
		o.mu.Lock()
		t := o.turns[key]
		if t == nil {
			t = &turn{changed: make(chan struct{})}
			o.turns[key] = t
		}
		took, changed := try(t), t.changed
		o.mu.Unlock()
		if took {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// change ends a request and wakes those that wait.
func (o *roomOrder) change(key turnKey, end func(*turn)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.turns[key]
	end(t)
	close(t.changed)
	t.changed = make(chan struct{})
	if t.clear == 0 && !t.encrypting {
		delete(o.turns, key)
	}
}
