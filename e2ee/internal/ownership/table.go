package ownership

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/store"
)

// Account is an account in memory.
type Account interface {
	comparable
	Ownership() *Tenure
}

// Host is what a Table needs of the engine.
type Host[A Account] interface {
	// Make returns what is in memory of an account: nothing yet.
	Make(row *store.Account) A
	// Detach removes all that is loaded of accounts, calls gone for each under the lock under
	// which something is added, and returns what ends their work. That waits, with keep, for
	// what must not be done by two at a time, and stores what only memory knows.
	Detach(gone func(A), accounts ...A) (end func(ctx context.Context, keep bool))
	// Wake ends syncs of the account's clients that wait.
	Wake(a A)
	// IsIdle reports whether no client has used the account since a time.
	IsIdle(a A, since time.Time) bool
	// Visit fetches what came for the devices of an account.
	Visit(ctx context.Context, row *store.Account)
}

// Options are how often something is done; see replicas.go.
type Options struct {
	ClaimEvery, ShareEvery time.Duration
}

// Claimer is how an account is claimed: [store.DB.Claim], [store.DB.ClaimExisting] or
// [Table.OursOnly].
type Claimer func(context.Context, id.UserID) (*store.Account, error)

// Table has the accounts in memory.
type Table[A Account] struct {
	env  *core.Env
	host Host[A]
	opts Options

	accounts sync.Map // of A by id.UserID; changed under mu only
	mu       locks.Mutex
	owning   locks.Turns[id.UserID] // an account is claimed, or released
	draining atomic.Bool            // nothing is claimed any more
}

// NewTable returns an empty table.
func NewTable[A Account](env *core.Env, host Host[A], opts Options) *Table[A] {
	return &Table[A]{
		env: env, host: host, opts: opts,
		mu:     locks.Mutex{Place: env.Order.At(locks.RankAccounts)},
		owning: locks.Turns[id.UserID]{Place: env.Order.At(locks.RankOwning)},
	}
}

// Get returns an account that is in memory; the zero value if it is not. It takes no lock.
func (t *Table[A]) Get(user id.UserID) A {
	a, _ := t.accounts.Load(user)
	found, _ := a.(A)
	return found
}

// All returns the accounts in memory.
func (t *Table[A]) All() []A {
	var all []A
	for _, a := range t.accounts.Range {
		if a, ok := a.(A); ok {
			all = append(all, a)
		}
	}
	return all
}

// Own claims the account of a user for a request, which uses it until done is called. An account
// that is being handed over is waited for. An error that wraps [store.ErrElsewhere] says who has
// it, or nobody if that is to be asked again.
func (t *Table[A]) Own(ctx context.Context, user id.UserID) (done func(), err error) {
	if !t.env.Store.Clustered() {
		return func() {}, nil
	}
	var none A
	for {
		a := t.Get(user)
		if a == none {
			if a, err = t.Claim(ctx, user, t.env.Store.Claim); err != nil {
				return nil, err
			}
		}
		if a.Ownership().use() {
			return a.Ownership().unuse, nil
		}
		if err := a.Ownership().awaitEnd(ctx); err != nil {
			return nil, err
		}
	}
}

// errDraining means that this process claims no account any more.
var errDraining = errors.New("this process hands its accounts over")

// Claim returns the account of a user, which is this process's from now on.
func (t *Table[A]) Claim(ctx context.Context, user id.UserID, by Claimer) (A, error) {
	var none A
	for {
		a := t.Get(user)
		switch {
		case a != none && a.Ownership().IsGone():
			if err := a.Ownership().awaitEnd(ctx); err != nil {
				return none, err
			}
			continue
		case a == none && t.draining.Load():
			return none, fmt.Errorf("%w: %w", errDraining, &store.ElsewhereError{})
		}
		a, err := t.claim(ctx, user, by)
		if err != nil || !a.Ownership().IsGone() {
			return a, err
		}
	}
}

func (t *Table[A]) claim(ctx context.Context, user id.UserID, by Claimer) (a A, err error) {
	give, err := t.owning.Take(ctx, user)
	if err != nil {
		return a, err
	}
	defer give()
	row, err := by(ctx, user)
	if err == nil {
		a = t.Of(row)
	}
	if err == nil && t.env.Store.Clustered() {
		a, err = t.again(ctx, user, by, a, row)
	}
	if err != nil {
		return a, fmt.Errorf("claim account: %w", err)
	}
	return a, nil
}

// again claims an account again, which costs nothing if it is ours: between the claim and its
// coming into memory it may have been released.
func (t *Table[A]) again(ctx context.Context, user id.UserID, by Claimer, a A, row *store.Account) (A, error) {
	now, err := by(ctx, user)
	if err != nil {
		t.Drop(user, a)
		return a, err
	}
	if now != row {
		a = t.Of(now)
	}
	return a, nil
}

// OursOnly is the Claimer of work that nobody asked for: what is not ours already is not found.
func (t *Table[A]) OursOnly(ctx context.Context, user id.UserID) (*store.Account, error) {
	owner, err := t.env.Store.Owner(ctx, user)
	if err != nil {
		return nil, err //nolint:wrapcheck // claim says what failed
	}
	if owner.State != store.OwnerHere {
		return nil, store.ErrNotFound
	}
	return t.env.Store.ClaimExisting(ctx, user) //nolint:wrapcheck // claim says what failed
}

// Of returns what is in memory of an account that was claimed.
func (t *Table[A]) Of(row *store.Account) A {
	t.mu.Lock()
	defer t.mu.Unlock()
	var none A
	a := t.Get(row.UserID)
	if a != none && !row.Succeeds(a.Ownership().row) {
		return a
	}
	if a != none { // it was deleted, or somebody else had it meanwhile
		t.drop(row.UserID, a)
	}
	a = t.host.Make(row)
	t.accounts.Store(row.UserID, a)
	return a
}

// drop removes what is in memory of an account that is not ours any more. Nothing is stored.
// The caller holds mu.
func (t *Table[A]) drop(user id.UserID, a A) {
	end := t.host.Detach(gone[A], a)
	t.accounts.CompareAndDelete(user, a)
	a.Ownership().leave()
	a.Ownership().end()
	if t.env.Context.Err() == nil { // otherwise everything ends
		t.env.WG.Go(func() { end(t.env.Context, false) })
	}
}

func gone[A Account](a A) { a.Ownership().gone.Store(true) }

// Drop removes an account from memory that is about to be deleted, if it is there.
func (t *Table[A]) Drop(user id.UserID, a A) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Get(user) == a {
		t.drop(user, a)
	}
}

// Lost is called when it was found that an account is another process's, with what was claimed
// of it.
func (t *Table[A]) Lost(row *store.Account) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var none A
	if a := t.Get(row.UserID); a != none && !row.Succeeds(a.Ownership().row) && !a.Ownership().row.Succeeds(row) {
		t.drop(row.UserID, a)
	}
}

// IsMoved reports whether an error means that an account was handed over or lost meanwhile.
func IsMoved(err error) bool {
	return errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrNotOwner) || errors.Is(err, store.ErrElsewhere) || errors.Is(err, ErrMoved)
}

// ErrMoved means that an account was handed over while a device of it was loaded.
var ErrMoved = fmt.Errorf("the account was handed over: %w", core.ErrReload)
