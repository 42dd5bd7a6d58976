package e2ee

import (
	"fmt"
	"slices"
	"time"

	goolm "maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/crypto/goolm/crypto"
	"maunium.net/go/mautrix/id"
)

// What a homeserver holds of one-time keys is its own business, and what it says of them may
// be wrong: Dendrite stores keys that it refuses, too. So the private half of a key that was
// offered stays, whatever the answer was, until a message has used it. There is a bound: when
// it is reached the oldest go.

// maxOneTimeKeys is how many an account stores: those on the homeserver, those that were
// claimed and are not used yet, and those that were refused and may be there all the same.
const maxOneTimeKeys = 4 * oneTimeKeysWanted

// makeOneTimeKeys makes keys to be offered. It is goolm's own with a larger bound.
func (a *olmAccount) makeOneTimeKeys(n int) error {
	var one goolm.Account
	for range n {
		one.NextOneTimeKeyID = a.NextOneTimeKeyID
		if err := one.GenOneTimeKeys(1); err != nil {
			return fmt.Errorf("make one-time keys: %w", err)
		}
		a.NextOneTimeKeyID = one.NextOneTimeKeyID
	}
	a.OTKeys = slices.Concat(one.OTKeys, a.OTKeys)
	a.OTKeys = a.OTKeys[:min(len(a.OTKeys), maxOneTimeKeys)]
	return nil
}

// setAside keeps the one-time keys that are not known to be on the homeserver for those who
// get them there all the same, and does not offer them again. What is offered next has IDs
// that the homeserver cannot have for other keys; also the fallback key, which stays the same.
func (a *olmAccount) setAside() {
	if len(a.OTKeys) > maxOneTimeKeys-oneTimeKeysWanted {
		// A homeserver that refuses without end must not drive out the keys that it took.
		a.OTKeys = slices.DeleteFunc(a.OTKeys, func(k crypto.OneTimeKey) bool { return !k.Published })
	}
	for i := range a.OTKeys {
		a.OTKeys[i].Published = true
	}
	a.NextOneTimeKeyID += restoredKeyStep
	if a.NumFallbackKeys > 0 && !a.CurrentFallbackKey.Published {
		a.CurrentFallbackKey.ID = a.NextOneTimeKeyID
		a.NextOneTimeKeyID++
	}
}

// keySupply is what the homeserver is known to have of one-time and fallback keys.
type keySupply struct {
	*part

	count        int  // one-time keys on the homeserver, as last told
	uncounted    bool // a sync told nothing of them, which may mean that there are none
	countedAt    time.Time
	wanted       bool          // one-time keys must be made or uploaded
	newFallback  bool          // the homeserver says the fallback key is used
	fallbackUsed bool          // a message used the fallback key
	served       id.Curve25519 // the fallback key that the homeserver is known to have

	claimFailures int // of the claims of dead keys, see claimDead
}

// fallbackWasUsed notes that a message used the fallback key. The caller holds mu.
func (k *keySupply) fallbackWasUsed() { k.fallbackUsed = true }

// servedFallback is the fallback key that the homeserver is known to have. The caller holds mu.
func (k *keySupply) servedFallback() id.Curve25519 { return k.served }
