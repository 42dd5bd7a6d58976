package locks

import (
	"context"

	"e2ee-proxy/internal/turns"
)

// Turns is a [turns.Turns] with a place in the order of the locks.
type Turns[K comparable] struct {
	Place *Place // nil but in tests

	of turns.Turns[K]
}

// Take waits for the turn of a key. The returned func gives it back.
func (t *Turns[K]) Take(ctx context.Context, key K) (func(), error) {
	t.Place.take()
	give, err := t.of.Take(ctx, key)
	if err != nil {
		t.Place.give()
		return nil, err //nolint:wrapcheck // it is the cause of the context's end
	}
	return func() { give(); t.Place.give() }, nil
}

// Idle reports whether nobody has a turn or waits for one.
func (t *Turns[K]) Idle() bool { return t.of.Idle() }
