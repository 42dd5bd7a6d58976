package interceptors

import (
	"context"
	"sync"

	"maunium.net/go/mautrix/id"
)

// roomOrder puts the sends of a user and the moment at which the same user encrypts a
// room in order, so that no clear text reaches the homeserver after the encryption
// event: sends that go out in clear are counted, the encryption event waits for them,
// and sends that come meanwhile wait for it.
//
// The order is kept for each user and room, so that nobody can hold up somebody else.
// Nothing is locked over the network: whoever waits gives up with its request.
type roomOrder struct {
	mu    sync.Mutex
	turns map[turnKey]*turn
}

type turnKey struct {
	user id.UserID
	room id.RoomID
}

// turn is in the map only while somebody is inside.
type turn struct {
	clear      int           // sends in clear on their way
	encrypting bool          // an encryption event is on its way, or waits to be
	changed    chan struct{} // closed when either of them changes
}

func newRoomOrder() *roomOrder { return &roomOrder{turns: map[turnKey]*turn{}} }

// send begins a send that may turn out to go in clear, and waits for an encryption
// event of the same user on its way. leave must be called, and may be called twice.
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

// encrypt begins an encryption event, waits for the user's sends in clear to the room
// and holds up those that come. leave must be called, and may be called twice.
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

// when waits until try takes its turn.
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

// change ends a turn and wakes those who wait.
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
