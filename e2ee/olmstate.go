package e2ee

import (
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
)

// olmState is what a device keeps for Olm: its private keys, what is known of other
// devices' keys and sessions, and whether to-device messages wait in the outbox. The
// sessions are in the store.
type olmState struct {
	*part
	host olmStateHost

	account *olm.Account
	noKeys  map[store.DeviceRef]retry // devices that had no one-time key for us
	begun   map[id.Curve25519]int     // see countBegun
	wedges  *wedges                   // nil: not loaded; replaced, never changed

	// outboxTurn lets one flush of the outbox run at a time. It has its own lock.
	outboxTurn    locks.Turns[struct{}]
	outboxPending bool
}

// olmStateHost is what olmState needs of the other parts.
type olmStateHost interface {
	begin() *step
	fallbackWasUsed()
	retryLocked(why retryFor, pause time.Duration)
	shownKeys() json.RawMessage
}

// signAsDevice signs JSON with the device's own key.
func (o *olmState) signAsDevice(raw json.RawMessage) (json.RawMessage, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.account.SignJSON(raw, o.acct.user, o.id)
}

// outboxFilled records that the outbox is not empty. The caller holds mu.
func (o *olmState) outboxFilled() { o.outboxPending = true }
