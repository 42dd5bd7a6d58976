package olm

import (
	"fmt"
	"slices"

	goolm "maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/crypto/goolm/crypto"
	"maunium.net/go/mautrix/id"
)

// What a homeserver says about stored one-time keys may be wrong: Dendrite stores keys of
// an upload that it refuses. So the private half of an uploaded key is kept, whatever the
// answer was, until a message has used it, up to a bound: beyond it the oldest are dropped.

const (
	// OneTimeKeysWanted is how many one-time keys the homeserver should have.
	OneTimeKeysWanted = 50
	// RestoredKeyStep is how far key IDs skip ahead after a restore of the database.
	RestoredKeyStep = 1 << 16
)

// maxOneTimeKeys bounds the private one-time keys of an account: those on the homeserver,
// those claimed and not used yet, and those refused, which may be there nevertheless.
const maxOneTimeKeys = 4 * OneTimeKeysWanted

// MakeOneTimeKeys makes one-time keys to be uploaded. It is goolm's function with a larger
// bound.
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

// SetAside marks the one-time keys of a refused upload as published: they are kept, because
// the homeserver may hand them out nevertheless, but not uploaded again. Later keys, and
// the fallback key, which stays the same, get IDs that the homeserver cannot have for other
// keys.
func (a *Account) SetAside() {
	if len(a.OTKeys) > maxOneTimeKeys-OneTimeKeysWanted {
		// A homeserver that always refuses must not push out the keys that it accepted.
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

// CurrentFallback returns the current fallback key; empty before there is one.
func (a *Account) CurrentFallback() id.Curve25519 {
	if a == nil || a.NumFallbackKeys == 0 {
		return ""
	}
	return a.CurrentFallbackKey.Key.B64Encoded()
}
