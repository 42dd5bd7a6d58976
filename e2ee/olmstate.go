package e2ee

import (
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
)

// olmState is a device's side of its Olm sessions: its private keys, what is known of those
// of others, and what waits to be sent through them. The sessions themselves are in the store.
type olmState struct {
	*part
	host olmStateHost

	account *olm.Account
	noKeys  map[store.DeviceRef]retry // devices that had no one-time key for us
	begun   map[id.Curve25519]int     // see countBegun
	wedges  *wedges                   // nil: not read; replaced, never changed

	// outboxTurn lets one flush at a time run. It has a lock of its own.
	outboxTurn    locks.Turns[struct{}]
	outboxPending bool
}

// olmStateHost is what the others do for it.
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

// outboxFilled notes that there is something to send. The caller holds mu.
func (o *olmState) outboxFilled() { o.outboxPending = true }
