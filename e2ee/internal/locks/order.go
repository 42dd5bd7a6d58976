package locks

import "sync"

// Rank is the place of a lock in the order of locks: a goroutine that holds a lock takes
// only locks of a higher rank. Turns come first, because only they are held during requests
// to the homeserver; then the mutexes, from the engine's to those under which no other is
// taken.
type Rank uint8

const (
	RankVerify  Rank = iota + 1 // verification: something happens to a verification
	RankRetries                 // roomkeys: one transaction is sent
	RankSends                   // roomkeys: a send into one room
	RankUpkeep                  // schedule.Schedule.UpkeepTurn: maintenance of a device
	RankHistory                 // sharedhistory: history is shared, or taken
	RankBoot                    // account.boot: the identity is set up
	RankSync                    // schedule.Schedule.SyncTurn: a sync of the engine's own
	RankReview                  // account.review: warnings are updated
	RankControl                 // controlroom.Account: the control room is changed
	RankOutbox                  // channel.Olm.outboxTurn: the outbox is sent
	RankOpening                 // Engine.opening: a device is loaded or deleted
	RankOwning                  // ownership.Table: an account is claimed or released

	RankAccounts // ownership.Table: accounts come into memory, and leave it
	RankEngine   // Engine.mu
	RankOpens    // roomkeys: a batch of events is decrypted
	RankDevice   // core.Device.Mu
	RankSession  // inboundSession.mu
	RankSearch   // searchindex.Account: its index is read or changed
	RankAccount  // account.mu
	RankLeaf     // no other lock is taken: liveness, lists, passwords, counts
)

// Order observes locking and unlocking, in tests.
type Order struct {
	Takes, Gives func(Rank)
}

// At returns the place of the locks with a rank; nil if nobody observes them.
func (o *Order) At(r Rank) *Place {
	if o == nil {
		return nil
	}
	return &Place{o, r}
}

// Place is a lock's place in an order.
type Place struct {
	order *Order
	rank  Rank
}

func (p *Place) take() {
	if p != nil {
		p.order.Takes(p.rank)
	}
}

func (p *Place) give() {
	if p != nil {
		p.order.Gives(p.rank)
	}
}

// Mutex is a mutex with a place in the order. Its zero value may be used.
type Mutex struct {
	Place *Place // nil but in tests
	mu    sync.Mutex
}

// Lock implements [sync.Locker].
func (l *Mutex) Lock() {
	l.Place.take()
	l.mu.Lock()
}

// Unlock implements [sync.Locker].
func (l *Mutex) Unlock() {
	l.mu.Unlock()
	l.Place.give()
}
