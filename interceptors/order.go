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
	mu       sync.Mutex
	inFlight map[roomOrderKey]*inFlight
}

type roomOrderKey struct {
	user id.UserID
	room id.RoomID
}

// inFlight is in the map only while a request of its key is under way.
type inFlight struct {
	clear      int           // sends in clear that are under way
	encrypting bool          // an encryption event is under way, or waits to be
	changed    chan struct{} // closed when either of them changes
}

func newRoomOrder() *roomOrder { return &roomOrder{inFlight: map[roomOrderKey]*inFlight{}} }

// send begins a send that may be in clear, after waiting for an encryption event of the
// same user that is under way. leave must be called, and may be called twice.
func (o *roomOrder) send(ctx context.Context, user id.UserID, room id.RoomID) (leave func(), err error) {
	key := roomOrderKey{user, room}
	err = o.await(ctx, key, func(t *inFlight) bool {
		if t.encrypting {
			return false
		}
		t.clear++
		return true
	})
	if err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() { o.update(key, func(t *inFlight) { t.clear-- }) }), nil
}

// encrypt begins an encryption event, after waiting for the user's sends in clear to the
// room, and makes later ones wait. leave must be called, and may be called twice.
func (o *roomOrder) encrypt(ctx context.Context, user id.UserID, room id.RoomID) (leave func(), err error) {
	key := roomOrderKey{user, room}
	err = o.await(ctx, key, func(t *inFlight) bool {
		if t.encrypting {
			return false
		}
		t.encrypting = true
		return true
	})
	if err != nil {
		return nil, err
	}
	leave = sync.OnceFunc(func() { o.update(key, func(t *inFlight) { t.encrypting = false }) })
	if err := o.await(ctx, key, func(t *inFlight) bool { return t.clear == 0 }); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// await waits until try succeeds.
func (o *roomOrder) await(ctx context.Context, key roomOrderKey, try func(*inFlight) bool) error {
	for {
		o.mu.Lock()
		t := o.inFlight[key]
		if t == nil {
			t = &inFlight{changed: make(chan struct{})}
			o.inFlight[key] = t
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

// update ends a request and wakes those that wait.
func (o *roomOrder) update(key roomOrderKey, end func(*inFlight)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.inFlight[key]
	end(t)
	close(t.changed)
	t.changed = make(chan struct{})
	if t.clear == 0 && !t.encrypting {
		delete(o.inFlight, key)
	}
}
