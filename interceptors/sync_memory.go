package interceptors

import (
	"errors"
	"fmt"
	"time"

	"e2ee-proxy/internal/budget"
)

// What a sync response says of encryption is held in memory until it is committed, and what
// the client is shown is written from it. That is little in nearly every response, but the
// homeserver says how much: so it comes from a budget too, and one account leaves the
// others theirs.

const (
	updateMemory        = 256 << 20
	updateMemoryPerUser = maxUpdate + updateStep
	// updateStep is how much is taken at once, in bytes.
	updateStep = 256 << 10
)

// newUpdateMemory returns the room for the updates of all syncs that are being answered.
func newUpdateMemory() *budget.Budget { return budget.New(updateMemory, updateMemoryPerUser) }

// memoryError says that there is no room for an update.
type memoryError struct{ cause error }

func (e *memoryError) Error() string { return fmt.Sprintf("hold a sync's update: %v", e.cause) }
func (e *memoryError) Unwrap() error { return e.cause }

// heldUpdate counts what one update holds. The zero value has no bound.
type heldUpdate struct {
	from        *budget.Budget
	owner       string
	size, taken int64
}

// add makes room for n bytes more.
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

// release gives the room back.
func (h *heldUpdate) release() {
	if h.from != nil {
		h.from.Give(h.owner, h.taken)
	}
	h.taken = 0
}

// memoryFailure says to the client that there is no room for an update; nil when err is
// something else.
func memoryFailure(err error) error {
	var full *memoryError
	if !errors.As(err, &full) {
		return nil
	}
	busy := LimitExceeded(5 * time.Second)
	busy.Text, busy.Hint = "The proxy is taking in too much of the homeserver at the moment.", "Try again in a moment."
	return busy.Because(err)
}
