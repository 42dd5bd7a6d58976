package store

import (
	"sync"

	"maunium.net/go/mautrix/id"
)

// ownedAccounts are the accounts that this replica owns, as far as it knows, and the losses
// that are to be told.
type ownedAccounts struct {
	tell    func(*Account) // nil: nobody wants to know
	stopped chan struct{}  // closed when the goroutine that tells has ended
	wake    chan struct{}

	mu     sync.Mutex
	byUser map[id.UserID]*Account
	// claiming has the users whose accounts are being claimed; a channel is closed afterwards.
	claiming map[id.UserID]chan struct{}
	// left has the users whose accounts were given up, although the database may not know it:
	// what was claimed before must not be used with what is claimed next.
	left map[id.UserID]bool
	lost []*Account
}

func newOwnedAccounts(c *Cluster) *ownedAccounts {
	o := &ownedAccounts{
		byUser: make(map[id.UserID]*Account), claiming: make(map[id.UserID]chan struct{}), left: make(map[id.UserID]bool),
		stopped: make(chan struct{}), wake: make(chan struct{}, 1), tell: c.Lost,
	}
	return o
}

// telling calls tell for the accounts that were lost, until done is closed.
func (o *ownedAccounts) telling(done <-chan struct{}) {
	defer close(o.stopped)
	for {
		select {
		case <-done:
			return
		case <-o.wake:
		}
		for acct := o.nextLost(); acct != nil; acct = o.nextLost() {
			if o.tell != nil {
				o.tell(acct)
			}
		}
	}
}

func (o *ownedAccounts) nextLost() *Account {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.lost) == 0 {
		return nil
	}
	acct := o.lost[0]
	o.lost = o.lost[1:]
	return acct
}

// of returns a user's account if it is ours, else nil.
func (o *ownedAccounts) of(user id.UserID) *Account {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.byUser[user]
}

// all returns all accounts that are ours.
func (o *ownedAccounts) all() []*Account {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make([]*Account, 0, len(o.byUser))
	for _, acct := range o.byUser {
		all = append(all, acct)
	}
	return all
}

// begin returns the account if it is ours. Else it returns a channel that is closed when
// somebody else has claimed it or failed to, or begins to claim it: then the caller calls end.
func (o *ownedAccounts) begin(user id.UserID) (acct *Account, others <-chan struct{}, anew bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if acct := o.byUser[user]; acct != nil {
		return acct, nil, false
	}
	if others, ok := o.claiming[user]; ok {
		return nil, others, false
	}
	o.claiming[user] = make(chan struct{})
	return nil, nil, o.left[user]
}

// end ends what begin began; acct is nil if it failed. It returns the account that is ours.
func (o *ownedAccounts) end(user id.UserID, acct *Account) *Account {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.claiming[user])
	delete(o.claiming, user)
	if acct == nil {
		return nil
	}
	return o.put(acct)
}

// add adds accounts that were claimed, and returns them.
func (o *ownedAccounts) add(all []*Account) []*Account {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range all {
		all[i] = o.put(all[i])
	}
	return all
}

// put adds an account. One that is known already with the same epoch stays the same.
func (o *ownedAccounts) put(acct *Account) *Account {
	before := o.byUser[acct.UserID]
	if before.same(acct) {
		return before
	}
	if before != nil {
		o.lost = append(o.lost, before)
		o.notify()
	}
	o.byUser[acct.UserID] = acct
	delete(o.left, acct.UserID)
	return acct
}

// same reports whether two stand for the same ownership of the same account.
func (a *Account) same(b *Account) bool {
	return a != nil && b != nil && a.ID == b.ID && a.epoch == b.epoch
}

// lose notes that an account is not ours any more, and has that told.
func (o *ownedAccounts) lose(acct *Account) {
	o.mu.Lock()
	defer o.mu.Unlock()
	mine := o.byUser[acct.UserID]
	if !mine.same(acct) {
		return
	}
	delete(o.byUser, acct.UserID)
	o.lost = append(o.lost, mine)
	o.notify()
}

// leave gives up those of the accounts that are ours, and returns them. The next claim is a new
// one, whatever becomes of the release.
func (o *ownedAccounts) leave(all []*Account) []*Account {
	o.mu.Lock()
	defer o.mu.Unlock()
	var mine []*Account
	for _, acct := range all {
		if acct.same(o.byUser[acct.UserID]) {
			delete(o.byUser, acct.UserID)
			o.left[acct.UserID] = true
			mine = append(mine, acct)
		}
	}
	return mine
}

// forget notes that an account was released or deleted for certain.
func (o *ownedAccounts) forget(all []*Account) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, acct := range all {
		if acct.same(o.byUser[acct.UserID]) {
			delete(o.byUser, acct.UserID)
		}
		if o.byUser[acct.UserID] == nil {
			delete(o.left, acct.UserID)
		}
	}
}

func (o *ownedAccounts) notify() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}
