package ownership

import (
	"context"
	"fmt"
	"sync/atomic"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/store"
)

// Tenure is how an account in memory is in use, and how that ends. It is made anew whenever
// the account comes into memory.
type Tenure struct {
	row    *store.Account
	gone   atomic.Bool
	judged atomic.Bool

	mu      locks.Mutex
	inUse   int // requests
	leaving bool
	idle    chan struct{} // closed once it is leaving and no request uses it; nil before
	left    chan struct{} // closed once it is not here; nil while nobody waits
	over    bool          // it is not here
}

// NewTenure returns that of an account that was claimed just now.
func NewTenure(row *store.Account, order *locks.Order) Tenure {
	return Tenure{row: row, mu: locks.Mutex{Place: order.At(locks.RankLeaf)}}
}

// IsGone reports whether nothing of the account is loaded any more. It is set under the lock
// under which devices are added, see [Host].
func (t *Tenure) IsGone() bool { return t.gone.Load() }

// Judged reports whether [Tenure.SetJudged] was called.
func (t *Tenure) Judged() bool { return t.judged.Load() }

// SetJudged records that the events of the account that were withheld are judged again.
func (t *Tenure) SetJudged() { t.judged.Store(true) }

// IsLeaving reports whether requests are waited for, because the account is handed over.
func (t *Tenure) IsLeaving() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leaving
}

// use records that a request uses the account; it fails when the account is leaving.
func (t *Tenure) use() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.leaving {
		t.inUse++
	}
	return !t.leaving
}

// unuse records that the request has ended.
func (t *Tenure) unuse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inUse--; t.inUse == 0 && t.leaving {
		close(t.idle)
	}
}

// leave lets no other request use the account. It reports false if that was said before.
func (t *Tenure) leave() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leaving {
		return false
	}
	t.leaving, t.idle = true, make(chan struct{})
	if t.inUse == 0 {
		close(t.idle)
	}
	return true
}

// isUsed reports whether a request uses the account.
func (t *Tenure) isUsed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inUse > 0
}

// unused returns a channel that is closed when no request uses the account, which is leaving.
func (t *Tenure) unused() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.idle
}

// end records that the account is not here any more.
func (t *Tenure) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left != nil && !t.over {
		close(t.left)
	}
	t.over = true
}

// awaitEnd waits until the account is not here any more.
func (t *Tenure) awaitEnd(ctx context.Context) error {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return nil
	}
	if t.left == nil {
		t.left = make(chan struct{})
	}
	left := t.left
	t.mu.Unlock()
	select {
	case <-left:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait until an account is handed over: %w", context.Cause(ctx))
	}
}
