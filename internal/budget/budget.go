package budget

import (
	"errors"
	"fmt"
	"sync"
)

// Errors of Take.
var (
	// ErrSpent means that too much is taken at the moment.
	ErrSpent = errors.New("budget: spent")
	// ErrNever means that one owner may never take so much.
	ErrNever = errors.New("budget: more than anybody may take")
)

// Budget is an amount that owners share. Its methods may be called concurrently.
type Budget struct {
	total, share int64

	mu    sync.Mutex
	taken int64
	by    map[string]int64
	free  func(owner string) bool
}

// New returns a budget of total, of which one owner may hold share at the same time. Zero
// and less allow nothing.
func New(total, share int64) *Budget {
	return &Budget{total: total, share: min(share, total), by: make(map[string]int64)}
}

// OnSpent has what is kept only because there is room for it given back when there is none: free
// releases something of an owner, or of anybody if owner is empty, and reports false when there
// is nothing. It is called without locks, by whoever takes, and must not wait.
func (b *Budget) OnSpent(free func(owner string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = free
}

// Take takes n for an owner.
func (b *Budget) Take(owner string, n int64) error {
	for {
		full, free, err := b.take(owner, n)
		if !errors.Is(err, ErrSpent) || free == nil || !free(full) {
			return err
		}
	}
}

// take is Take once. When too much is taken, full is whose share is, or empty, and free what may
// give something back.
func (b *Budget) take(owner string, n int64) (full string, free func(string) bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	held := b.by[owner]
	switch {
	case n < 0:
		return "", nil, fmt.Errorf("%w: a negative amount", ErrNever)
	case n == 0:
		return "", nil, nil
	case n > b.share:
		return "", nil, ErrNever
	case n > b.share-held:
		return owner, b.free, ErrSpent
	case n > b.total-b.taken:
		return "", b.free, ErrSpent
	}
	b.taken += n
	b.by[owner] = held + n
	return "", nil, nil
}

// Release releases n of what an owner took.
func (b *Budget) Release(owner string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken -= n
	if b.by[owner] -= n; b.by[owner] <= 0 {
		delete(b.by, owner)
	}
}

// Pass passes n of what one owner took to another, and reports whether that may have so much more.
func (b *Budget) Pass(from, to string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n < 0 || n > b.by[from] || from != to && n > b.share-b.by[to] {
		return false
	}
	if b.by[from] -= n; b.by[from] == 0 {
		delete(b.by, from)
	}
	b.by[to] += n
	return true
}

// Taken returns how much is taken now, by all owners.
func (b *Budget) Taken() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken
}

// Share returns how much one owner may hold at the same time.
func (b *Budget) Share() int64 { return b.share }
