package e2ee

import (
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
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
	fallbackWasUsed()
	recordServedFallback(s *core.Step) error
	retryLocked(why retryFor, pause time.Duration)
	shownKeys() json.RawMessage
}

// stagedAccount are the private keys as a step changes them.
type stagedAccount struct {
	o    *olmState
	keys *olm.Account
}

func (a *stagedAccount) Stage(s *core.Step) { s.Row().Olm = a.keys.Pickled() }

func (a *stagedAccount) Apply() { a.o.account = a.keys }

// changeAccount returns the private keys as a step stages them, to be changed.
func (o *olmState) changeAccount(s *core.Step) *olm.Account {
	a, _ := s.Part(o, func() core.Staged { return &stagedAccount{o, o.account.Clone()} }).(*stagedAccount)
	return a.keys
}

// accountChanged reports whether a step changes the private keys.
func (o *olmState) accountChanged(s *core.Step) bool { return s.Part(o, nil) != nil }

// readAccount returns the private keys as a step has staged them, only to be read.
func (o *olmState) readAccount(s *core.Step) *olm.Account {
	if a, ok := s.Part(o, nil).(*stagedAccount); ok {
		return a.keys
	}
	return o.account
}

// signAsDevice signs JSON with the device's own key.
func (o *olmState) signAsDevice(raw json.RawMessage) (json.RawMessage, error) {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	return o.account.SignJSON(raw, o.acct.User, o.ID)
}

// outboxFilled records that the outbox is not empty. The caller holds mu.
func (o *olmState) outboxFilled() { o.outboxPending = true }
