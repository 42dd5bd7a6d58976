package e2ee

import (
	"time"

	"maunium.net/go/mautrix/id"
)

// keySupply is what is known of the one-time and fallback keys on the homeserver.
type keySupply struct {
	*part

	count        int  // one-time keys on the homeserver, by its last count
	uncounted    bool // a sync had no counts, which may mean that no keys are left
	countedAt    time.Time
	wanted       bool          // one-time keys must be made or uploaded
	newFallback  bool          // the homeserver says the fallback key is used
	fallbackUsed bool          // a message used the fallback key
	served       id.Curve25519 // the fallback key that the homeserver is known to have

	claimFailures int // of the claims of dead keys, see claimDead
}

// fallbackWasUsed records that a message used the fallback key. The caller holds mu.
func (k *keySupply) fallbackWasUsed() { k.fallbackUsed = true }
