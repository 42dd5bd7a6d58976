package olm

import (
	"fmt"
	"slices"

	goolm "maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/crypto/goolm/crypto"
	"maunium.net/go/mautrix/id"
)

// What a homeserver holds of one-time keys is its own business, and what it says of them may
// be wrong: Dendrite stores keys that it refuses, too. So the private half of a key that was
// offered stays, whatever the answer was, until a message has used it. There is a bound: when
// it is reached the oldest go.

const (
	// OneTimeKeysWanted is how many one-time keys the homeserver should hold.
	OneTimeKeysWanted = 50
	// RestoredKeyStep is how far key IDs move on after a restore.
	RestoredKeyStep = 1 << 16
)

// maxOneTimeKeys is how many an account stores: those on the homeserver, those that were
// claimed and are not used yet, and those that were refused and may be there all the same.
const maxOneTimeKeys = 4 * OneTimeKeysWanted

// MakeOneTimeKeys makes keys to be offered. It is goolm's own with a larger bound.
func (a *Account) MakeOneTimeKeys(n int) error {
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

// SetAside keeps the one-time keys that are not known to be on the homeserver for those who
// get them there all the same, and does not offer them again. What is offered next has IDs
// that the homeserver cannot have for other keys; also the fallback key, which stays the same.
func (a *Account) SetAside() {
	if len(a.OTKeys) > maxOneTimeKeys-OneTimeKeysWanted {
		// A homeserver that refuses without end must not drive out the keys that it took.
		a.OTKeys = slices.DeleteFunc(a.OTKeys, func(k crypto.OneTimeKey) bool { return !k.Published })
	}
	for i := range a.OTKeys {
		a.OTKeys[i].Published = true
	}
	a.NextOneTimeKeyID += RestoredKeyStep
	if a.NumFallbackKeys > 0 && !a.CurrentFallbackKey.Published {
		a.CurrentFallbackKey.ID = a.NextOneTimeKeyID
		a.NextOneTimeKeyID++
	}
}

// CurrentFallback returns the fallback key that is offered; empty before there is one.
func (a *Account) CurrentFallback() id.Curve25519 {
	if a == nil || a.NumFallbackKeys == 0 {
		return ""
	}
	return a.CurrentFallbackKey.Key.B64Encoded()
}
