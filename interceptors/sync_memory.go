package interceptors

import (
	"fmt"
	"time"

	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/rewrite"
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

// heldUpdate counts the memory of one update. The zero value has no limit.
type heldUpdate struct {
	from        *budget.Budget
	owner       string
	size, taken int64
}

// add takes n more bytes. Its error is for the client.
func (h *heldUpdate) add(n int) error {
	if h.size += int64(n); h.size > maxUpdate {
		return rewrite.Unreadable(fmt.Errorf("%w: more than %d bytes that matter to encryption", errSyncBody, maxUpdate))
	}
	if h.from == nil || h.size <= h.taken {
		return nil
	}
	more := max(updateStep, h.size-h.taken)
	if err := h.from.Take(h.owner, more); err != nil {
		busy := apierr.LimitExceeded(5 * time.Second)
		busy.Text, busy.Hint = "The proxy is taking in too much of the homeserver at the moment.", "Try again in a moment."
		return busy.Because(fmt.Errorf("hold a sync's update: %w", err))
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
