package e2ee

import (
	"context"
	"sync"
	"time"
)

// turns lets one caller at a time work under a key, in no particular order, and lets
// the others give up when their context ends. Unlike a mutex it may be held while
// the homeserver is asked, because it blocks nothing but the same key.
type turns[K comparable] struct {
	order *lockOrder // nil but in tests
	rank  rank

	mu    sync.Mutex
	taken map[K]*turn
}

type turn struct {
	slot    chan struct{}
	holders int
}

// take waits for the key's turn. The returned func gives it back.
func (t *turns[K]) take(ctx context.Context, key K) (func(), error) {
	if t.order != nil {
		t.order.takes(t.rank)
	}
	t.mu.Lock()
	if t.taken == nil {
		t.taken = make(map[K]*turn)
	}
	mine := t.taken[key]
	if mine == nil {
		mine = &turn{slot: make(chan struct{}, 1)}
		t.taken[key] = mine
	}
	mine.holders++
	t.mu.Unlock()
	select {
	case mine.slot <- struct{}{}:
		return func() { <-mine.slot; t.leave(key, mine) }, nil
	case <-ctx.Done():
		t.leave(key, mine)
		return nil, context.Cause(ctx)
	}
}

func (t *turns[K]) leave(key K, mine *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.order != nil {
		t.order.gives(t.rank)
	}
	if mine.holders--; mine.holders == 0 {
		delete(t.taken, key)
	}
}

// waitFor waits, unless ctx ends before.
func waitFor(ctx context.Context, long time.Duration) error {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
