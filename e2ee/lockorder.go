package e2ee

import "sync"

// rank is the place of a lock in the order of locks: whoever holds one takes only others of
// a higher rank. Turns come first, because they alone are held while the homeserver is asked;
// then come the mutexes, from the engine's to those that guard one thing and take no other.
type rank uint8

const (
	rankSends   rank = iota + 1 // megolmState.sends: a send into one room
	rankUpkeep                  // schedule.upkeep: maintenance of a device
	rankBoot                    // account.boot: the identity is set up
	rankSync                    // schedule.syncTurn: a sync of the engine's own
	rankReview                  // account.review: warnings are looked at anew
	rankOutbox                  // olmState.outboxTurn: what waits is sent
	rankOpening                 // Engine.opening: a device is loaded, or forgotten

	rankEngine  // Engine.mu
	rankOpens   // megolmState.opens: a batch of events is decrypted
	rankDevice  // part.mu
	rankSession // inboundSession.mu
	rankAccount // account.mu
	rankLeaf    // what takes no other lock: liveness, lists, passwords, counts
)

// lockOrder is told of locks that are taken and given back, by tests.
type lockOrder struct {
	takes, gives func(rank)
}

// lock is a mutex that has its place in the order. Its zero value may be used.
type lock struct {
	mu    sync.Mutex
	order *lockOrder // nil but in tests
	rank  rank
}

// Lock implements [sync.Locker].
func (l *lock) Lock() {
	if l.order != nil {
		l.order.takes(l.rank)
	}
	l.mu.Lock()
}

// Unlock implements [sync.Locker].
func (l *lock) Unlock() {
	l.mu.Unlock()
	if l.order != nil {
		l.order.gives(l.rank)
	}
}
