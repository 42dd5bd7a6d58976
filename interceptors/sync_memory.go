package interceptors

import (
	"errors"
	"fmt"
	"time"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/internal/budget"
)

// What matters to encryption in a sync response is held in memory until it is committed,
// and the client's answer is written from it. It is little in nearly every response, but
// the homeserver decides how much: so it has a budget too, of which one account leaves
// enough for the others.

const (
	updateMemory        = 256 << 20
	updateMemoryPerUser = maxUpdate + updateStep
	// updateStep is how much is taken at once, in bytes.
	updateStep = 256 << 10
)

// newUpdateMemory returns the budget for the updates of all syncs.
func newUpdateMemory() *budget.Budget { return budget.New(updateMemory, updateMemoryPerUser) }

// memoryError means that the budget for updates is used up.
type memoryError struct{ cause error }

func (e *memoryError) Error() string { return fmt.Sprintf("hold a sync's update: %v", e.cause) }
func (e *memoryError) Unwrap() error { return e.cause }

// heldUpdate counts the memory of one update. The zero value has no limit.
type heldUpdate struct {
	from        *budget.Budget
	owner       string
	size, taken int64
}

// add takes n more bytes.
func (h *heldUpdate) add(n int) error {
	if h.size += int64(n); h.size > maxUpdate {
		return fmt.Errorf("%w: more than %d bytes that matter to encryption", errSyncBody, maxUpdate)
	}
	if h.from == nil || h.size <= h.taken {
		return nil
	}
	more := max(updateStep, h.size-h.taken)
	if err := h.from.Take(h.owner, more); err != nil {
		return &memoryError{err}
	}
	h.taken += more
	return nil
}

// release returns the bytes to the budget.
func (h *heldUpdate) release() {
	if h.from != nil {
		h.from.Release(h.owner, h.taken)
	}
	h.taken = 0
}

// memoryFailure returns the client's error for a memoryError; nil when err is something
// else.
func memoryFailure(err error) error {
	var full *memoryError
	if !errors.As(err, &full) {
		return nil
	}
	busy := apierr.LimitExceeded(5 * time.Second)
	busy.Text, busy.Hint = "The proxy is taking in too much of the homeserver at the moment.", "Try again in a moment."
	return busy.Because(err)
}
