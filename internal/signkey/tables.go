package signkey

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Tables are the tables of the keys that were used last. They may be used by many at once.
type Tables struct {
	base func() *Base // computed when it is needed first
	kept *lru.Cache[[keySize]byte, *keptTable]
}

type keptTable struct {
	*Table
	used atomic.Int64 // when, in seconds
}

// NewTables returns a place for so many tables, of about 30 kB each.
func NewTables(most int) (*Tables, error) {
	kept, err := lru.New[[keySize]byte, *keptTable](most)
	if err != nil {
		return nil, fmt.Errorf("make a cache of tables: %w", err)
	}
	return &Tables{base: sync.OnceValue(NewBase), kept: kept}, nil
}

// Of returns the table of a key; nil if there is none.
func (t *Tables) Of(k *Key, now time.Time) *Table {
	kept, ok := t.kept.Get(k.raw)
	if !ok {
		return nil
	}
	kept.used.Store(now.Unix())
	return kept.Table
}

// Make makes the table of a key.
func (t *Tables) Make(k *Key, now time.Time) *Table {
	kept := &keptTable{Table: t.base().NewTable(k)}
	kept.used.Store(now.Unix())
	t.kept.Add(k.raw, kept)
	return kept.Table
}

// Forget drops the tables that were not used since.
func (t *Tables) Forget(since time.Time) {
	for _, raw := range t.kept.Keys() {
		if kept, ok := t.kept.Peek(raw); ok && kept.used.Load() < since.Unix() {
			t.kept.Remove(raw)
		}
	}
}
