package olm

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	goolm "maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/crypto/goolm/crypto"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/signkey"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
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

// Claimed is what the homeserver says is a one-time key of a device.
type Claimed struct {
	Name string
	Raw  json.RawMessage
	Of   *trustcache.Device
}

// CheckOneTimeKeys returns each key if its device has signed it, else an empty one.
func CheckOneTimeKeys(all []Claimed) []id.Curve25519 {
	keys, checks := make([]id.Curve25519, len(all)), make([]signkey.Check, len(all))
	for i := range all {
		keys[i], checks[i] = all[i].read()
	}
	for i, valid := range signkey.VerifyAll(checks) {
		if !valid {
			keys[i] = ""
		}
	}
	return keys
}

// read returns the key, and the check of its signature, which refuses one that cannot be read.
func (c *Claimed) read() (key id.Curve25519, check signkey.Check) {
	object, err := strictjson.Parse(c.Raw)
	if err != nil || !strings.HasPrefix(c.Name, wire.AlgorithmSigned+":") {
		return "", check
	}
	text, ok := object.Text("key")
	if !ok {
		return "", check
	}
	signature, err := signatureOf(object, c.Of)
	if err != nil {
		return "", check
	}
	raw, err := base64.RawStdEncoding.DecodeString(c.Of.Ed25519.String())
	if err != nil {
		return "", check
	}
	by, err := signkey.NewKey(raw)
	if err != nil {
		return "", check
	}
	message, err := wire.Signable(c.Raw)
	if err != nil {
		return "", check
	}
	return id.Curve25519(text), signkey.Check{By: by, Message: message, Signature: signature}
}

// signatureOf returns a device's signature of an object.
func signatureOf(object strictjson.Object, dev *trustcache.Device) ([]byte, error) {
	all, err := strictjson.Parse(object.Get("signatures"))
	if err != nil {
		return nil, err
	}
	own, err := strictjson.Parse(all.Get(dev.UserID.String()))
	if err != nil {
		return nil, err
	}
	text, ok := own.Text("ed25519:" + dev.DeviceID.String())
	if !ok {
		return nil, strictjson.ErrMalformed
	}
	return base64.RawStdEncoding.DecodeString(text)
}
