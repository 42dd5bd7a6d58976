package searchindex

import (
	"context"
	"fmt"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
)

// Options are the settings of all indexes.
type Options struct {
	// Off keeps none, and deletes those that there are.
	Off bool
	// Messages bounds the messages in an account's index; 0 means 100,000.
	Messages int
	// InMemory bounds the entries whose columns are kept in memory, over all accounts, at
	// about 60 bytes each; 0 means 1,000,000.
	InMemory int
}

const (
	defaultMessages = 100_000
	defaultInMemory = 1_000_000
	// maxAccounts bounds the indexes in memory: also an empty one takes something.
	maxAccounts = 10_000
)

// Shared is what the indexes of all accounts share: the memory they may take.
type Shared struct {
	options Options

	mu      locks.Mutex
	used    *simplelru.LRU[*Account, int] // entries, the least recently used first
	entries int
}

// NewShared returns what all indexes share.
func NewShared(env *core.Env, o Options) (*Shared, error) {
	if o.Messages <= 0 {
		o.Messages = defaultMessages
	}
	if o.InMemory <= 0 {
		o.InMemory = defaultInMemory
	}
	s := &Shared{options: o, mu: locks.Mutex{Place: env.Order.At(locks.RankLeaf)}}
	used, err := simplelru.NewLRU(maxAccounts, func(a *Account, n int) {
		s.entries -= n
		a.loaded.Store(nil)
	})
	if err != nil {
		return nil, fmt.Errorf("make the list of search indexes: %w", err)
	}
	s.used = used
	return s, nil
}

// Start deletes all indexes if there are to be none.
func (s *Shared) Start(ctx context.Context, env *core.Env) error {
	if !s.options.Off {
		return nil
	}
	return env.Store.DropSearch(ctx)
}

// use records that an index is used, and removes others from memory if there are too many.
func (s *Shared) use(a *Account, x *index) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := x.entries()
	if before, ok := s.used.Peek(a); ok {
		s.entries -= before
	}
	s.entries += n
	s.used.Add(a, n)
	for s.entries > s.options.InMemory && s.used.Len() > 1 {
		s.used.RemoveOldest()
	}
}

// drop records that an index is not in memory any more.
func (s *Shared) drop(a *Account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used.Remove(a)
}
