package rediscache

import "sync/atomic"

// failuresToOpen is how many calls in a row fail before no more are tried.
const failuresToOpen = 3

// breaker keeps calls from waiting for a Redis that does not answer. It is closed again by
// whoever finds that it does. The zero value lets calls through.
type breaker struct{ failures atomic.Int64 }

func (b *breaker) allows() bool { return b.failures.Load() < failuresToOpen }

func (b *breaker) succeeded() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
}

// failed reports whether this failure was the one that stops calls.
func (b *breaker) failed() bool { return b.failures.Add(1) == failuresToOpen }
