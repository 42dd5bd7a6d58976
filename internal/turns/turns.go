package turns

import (
	"context"
	"sync"
)

// Turns is a lock by key. Unlike a mutex it may be held during a request to the homeserver,
// because it blocks only the same key. The zero value is ready for use.
type Turns[K comparable] struct {
	mu    sync.Mutex
	taken map[K]*turn
}

type turn struct {
	slot    chan struct{}
	holders int
}

// Take waits for the turn of a key. give ends the turn, and must be called once. The error is the
// cause of the context's end.
func (t *Turns[K]) Take(ctx context.Context, key K) (give func(), err error) {
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

func (t *Turns[K]) leave(key K, mine *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mine.holders--; mine.holders > 0 {
		return
	}
	delete(t.taken, key)
	if len(t.taken) == 0 {
		t.taken = nil // most locks of most devices are not in use, and an emptied map keeps its memory
	}
}

// Idle reports whether nobody has a turn or waits for one.
func (t *Turns[K]) Idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.taken) == 0
}
