package locks

import "sync"

// Rank is the place of a lock in the order of locks: whoever holds one takes only others of
// a higher rank. Turns come first, because they alone are held while the homeserver is asked;
// then come the mutexes, from the engine's to those that guard one thing and take no other.
type Rank uint8

const (
	RankSends   Rank = iota + 1 // megolmState.sends: a send into one room
	RankUpkeep                  // schedule.upkeep: maintenance of a device
	RankBoot                    // account.boot: the identity is set up
	RankSync                    // schedule.syncTurn: a sync of the engine's own
	RankReview                  // account.review: warnings are looked at anew
	RankOutbox                  // olmState.outboxTurn: what waits is sent
	RankOpening                 // Engine.opening: a device is loaded, or forgotten

	RankEngine  // Engine.mu
	RankOpens   // megolmState.opens: a batch of events is decrypted
	RankDevice  // part.mu
	RankSession // inboundSession.mu
	RankAccount // account.mu
	RankLeaf    // what takes no other lock: liveness, lists, passwords, counts
)

// Order is told of locks that are taken and given back, by tests.
type Order struct {
	Takes, Gives func(Rank)
}

// Mutex is a mutex that has its place in the order. Its zero value may be used.
type Mutex struct {
	mu    sync.Mutex
	Order *Order // nil but in tests
	Rank  Rank
}

// Lock implements [sync.Locker].
func (l *Mutex) Lock() {
	if l.Order != nil {
		l.Order.Takes(l.Rank)
	}
	l.mu.Lock()
}

// Unlock implements [sync.Locker].
func (l *Mutex) Unlock() {
	l.mu.Unlock()
	if l.Order != nil {
		l.Order.Gives(l.Rank)
	}
}
