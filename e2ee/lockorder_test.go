package e2ee

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"e2ee-proxy/e2ee/internal/locks"
)

// Locks that are taken in another order than theirs are found out, whether or not anybody
// waits: the work of every flow, undisturbed, is done under this check (everyDisturbance).
func TestLocksOutOfOrder(t *testing.T) {
	t.Parallel()
	var o Options
	o.CheckLocks()
	device, account := locks.Mutex{Place: o.locks.At(locks.RankDevice)}, locks.Mutex{Place: o.locks.At(locks.RankAccount)}
	panics := func(first, second *locks.Mutex) (did bool) {
		defer func() { did = recover() != nil }()
		first.Lock()
		defer first.Unlock()
		second.Lock()
		defer second.Unlock()
		return false
	}
	if panics(&device, &account) {
		t.Error("the device's lock before the account's is refused")
	}
	if !panics(&account, &device) || !panics(&device, &device) {
		t.Error("locks out of order are not found out")
	}
}

// CheckLocks has an engine panic where somebody takes a lock while holding one of the same or
// of a higher rank. Turns may be given back by another goroutine than the one that took them.
func (o *Options) CheckLocks() {
	var mu sync.Mutex
	held := make(map[string][]locks.Rank)
	o.locks = &locks.Order{
		Takes: func(r locks.Rank) {
			mu.Lock()
			defer mu.Unlock()
			me := goroutine()
			for _, other := range held[me] {
				if other >= r {
					panic(fmt.Sprintf("a lock of rank %d is taken while one of rank %d is held", r, other))
				}
			}
			held[me] = append(held[me], r)
		},
		Gives: func(r locks.Rank) {
			mu.Lock()
			defer mu.Unlock()
			me := goroutine()
			i := slices.Index(held[me], r)
			if i < 0 {
				return
			}
			if held[me] = slices.Delete(held[me], i, i+1); len(held[me]) == 0 {
				delete(held, me)
			}
		},
	}
}

// goroutine names the calling goroutine.
func goroutine() string {
	buf := make([]byte, 64)
	name, _, _ := bytes.Cut(bytes.TrimPrefix(buf[:runtime.Stack(buf, false)], []byte("goroutine ")), []byte(" "))
	return string(name)
}
