package ownership

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
)

const (
	// releaseWithin bounds the release of an account whose time has run out.
	releaseWithin = 5 * time.Second
	// releaseBatch is how many accounts are released at the same time.
	releaseBatch = 256
)

// HandOver gives the account of a user to nobody, so that the next process that needs it claims
// it. Requests that use it are waited for, and waiting syncs of clients end early, until ctx
// ends; then it is given away all the same, and what is still under way stores nothing. It does
// nothing if the account is not this process's.
func (t *Table[A]) HandOver(ctx context.Context, user id.UserID) error {
	if !t.env.Store.Clustered() {
		return nil
	}
	var none A
	a := t.Get(user)
	if a == none {
		return t.releaseUnloaded(ctx, user)
	}
	if !a.Ownership().leave() {
		return a.Ownership().awaitEnd(ctx)
	}
	t.await(ctx, a)
	return t.unload(ctx, a)
}

// releaseUnloaded releases an account of which nothing is in memory.
func (t *Table[A]) releaseUnloaded(ctx context.Context, user id.UserID) error {
	give, err := t.owning.Take(ctx, user)
	if err != nil {
		return err
	}
	defer give()
	var none A
	if t.Get(user) != none {
		return nil // it was needed meanwhile
	}
	row, err := t.OursOnly(ctx, user)
	if err == nil {
		err = t.env.Store.Release(ctx, row)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrElsewhere) {
		return fmt.Errorf("hand an account over: %w", err)
	}
	return nil
}

// await waits until no request uses an account that is leaving, or ctx ends.
func (t *Table[A]) await(ctx context.Context, a A) {
	t.host.Wake(a)
	select {
	case <-a.Ownership().unused():
	case <-ctx.Done():
	}
}

// unload removes accounts from memory that are leaving, and releases them.
func (t *Table[A]) unload(ctx context.Context, accounts ...A) error {
	t.host.Detach(gone[A], accounts...)(ctx, true)
	ctx, cancel := core.Detach(ctx, releaseWithin)
	defer cancel()
	rows := make([]*store.Account, len(accounts))
	for i, a := range accounts {
		rows[i] = a.Ownership().row
	}
	err := t.env.Store.Release(ctx, rows...)
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, a := range accounts {
		t.accounts.CompareAndDelete(rows[i].UserID, a)
		a.Ownership().end()
	}
	if err != nil {
		return fmt.Errorf("release accounts: %w", err)
	}
	return nil
}

// Drain hands all accounts over, and claims none any more. Those that no request uses leave at
// once, the others when their last request has ended, and all when ctx ends.
func (t *Table[A]) Drain(ctx context.Context) error {
	if !t.env.Store.Clustered() {
		return nil
	}
	t.draining.Store(true)
	errs := []error{t.env.Store.Drain(ctx), t.releaseRest(ctx)} // the others know it from now on
	var idle, busy []A
	for _, a := range t.All() {
		switch {
		case !a.Ownership().leave(): // somebody hands it over already
		case a.Ownership().isUsed():
			busy = append(busy, a)
		default:
			idle = append(idle, a)
		}
	}
	late := make([]error, len(busy))
	var leaving sync.WaitGroup
	for i, a := range busy {
		leaving.Go(func() {
			t.await(ctx, a)
			late[i] = t.unload(ctx, a)
		})
	}
	slices.SortFunc(idle, byUser)
	for some := range slices.Chunk(idle, releaseBatch) {
		errs = append(errs, t.unload(ctx, some...))
	}
	leaving.Wait()
	errs = append(errs, t.releaseRest(ctx)) // what was claimed when it began
	return errors.Join(append(errs, late...)...)
}

// releaseRest releases the accounts of which nothing is in memory.
func (t *Table[A]) releaseRest(ctx context.Context) error {
	var none A
	rows := slices.DeleteFunc(t.env.Store.Owned(), func(row *store.Account) bool { return t.Get(row.UserID) != none })
	slices.SortFunc(rows, func(a, b *store.Account) int { return strings.Compare(string(a.UserID), string(b.UserID)) })
	for some := range slices.Chunk(rows, releaseBatch) {
		if err := t.env.Store.Release(ctx, some...); err != nil {
			return fmt.Errorf("release accounts: %w", err)
		}
	}
	return nil
}

// byUser is an order in which rows may be locked.
func byUser[A Account](a, b A) int {
	return strings.Compare(string(a.Ownership().row.UserID), string(b.Ownership().row.UserID))
}
