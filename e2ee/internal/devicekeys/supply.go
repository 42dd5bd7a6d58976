package devicekeys

import (
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/channel"
	"e2ee-proxy/e2ee/internal/core"
)

// Supply is what is known of the one-time and fallback keys on the homeserver.
type Supply struct {
	*core.Device
	olm         *channel.Olm
	publication *Publication

	count        int // one-time keys on the homeserver, by its last count
	countedAt    time.Time
	uncounted    bool          // a sync had no counts, which may mean that no keys are left
	wanted       bool          // one-time keys must be made or uploaded
	newFallback  bool          // the homeserver says the fallback key is used
	fallbackUsed bool          // a message used the fallback key
	served       id.Curve25519 // the fallback key that the homeserver is known to have

	claimFailures int // of the claims of dead keys, see ClaimDead
}

// NewSupply returns what a device knows of its keys on the homeserver: nothing yet.
func NewSupply(d *core.Device, olm *channel.Olm, publication *Publication) Supply {
	return Supply{Device: d, olm: olm, publication: publication, count: -1}
}

// Load says what the device's row keeps of them.
func (k *Supply) Load(meta json.RawMessage) { k.served = loadServed(meta) }

// Due reports whether keys are to be counted, made or uploaded. The caller holds mu.
func (k *Supply) Due() bool { return k.wanted || k.uncounted || k.newFallback }

// FallbackWasUsed records that a message used the fallback key. The caller holds mu.
func (k *Supply) FallbackWasUsed() { k.fallbackUsed = true }
