package channel

import (
	"context"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/store"
)

// Olm is what a device keeps for Olm: its private keys, what is known of other
// devices' keys and sessions, and whether to-device messages wait in the outbox. The
// sessions are in the store; those in use are kept in memory too, see kept.go.
type Olm struct {
	*core.Device
	host   Host
	shared *Shared
	kept   *kept

	// keys are the private keys; nil: the proxy has none.
	keys   *olm.Account
	noKeys map[store.DeviceRef]keyless // devices that had no one-time key for us
	begun  map[id.Curve25519]int       // see CountBegun
	wedges *wedges                     // nil: not loaded; replaced, never changed

	// outboxTurn lets one flush of the outbox run at a time. It has its own lock.
	outboxTurn locks.Turns[struct{}]
	outbox     outbox
}

// Host is what Olm needs of the other parts.
type Host interface {
	// RecordServedFallback stages that the fallback key in use was handed out, and
	// FallbackWasUsed has it replaced.
	RecordServedFallback(s *core.Step) error
	FallbackWasUsed()
	// RetryWedges has the wedges tried again after a pause.
	RetryWedges(pause time.Duration)
	// ShownKeys returns the device's keys with all signatures that the homeserver shows; nil
	// before it does.
	ShownKeys() json.RawMessage
	// StillMayGet decides again whether the recipients of a request in the outbox may have what it
	// gives them. An error means that this cannot be told now. The caller holds no lock but the
	// outbox's turn.
	StillMayGet(ctx context.Context, about *olm.About, since time.Time) (bool, error)
}

// New returns a device's end of its channels. The device's private keys are not here yet.
func New(d *core.Device, shared *Shared, host Host) Olm {
	return Olm{
		Device: d, host: host, shared: shared, kept: &kept{}, outbox: outbox{pending: true}, noKeys: make(map[store.DeviceRef]keyless),
		outboxTurn: locks.Turns[struct{}]{Place: d.Env.Order.At(locks.RankOutbox)},
	}
}

// Load gives the device its private keys, and what its row keeps beside them.
func (o *Olm) Load(keys *olm.Account, meta json.RawMessage) {
	o.keys, o.begun = keys, loadBegun(meta)
}

// Keys returns the private keys, only to be read; nil when they are not here. The caller holds
// mu.
func (o *Olm) Keys() *olm.Account { return o.keys }

// stagedAccount are the private keys as a step changes them.
type stagedAccount struct {
	o    *Olm
	keys *olm.Account
}

func (a *stagedAccount) Stage(s *core.Step) { s.Row().Olm = a.keys.Pickled() }

func (a *stagedAccount) Apply() { a.o.keys = a.keys }

// ChangeKeys returns the private keys as a step stages them, to be changed.
func (o *Olm) ChangeKeys(s *core.Step) *olm.Account {
	a, _ := s.Part(o, func() core.Staged { return &stagedAccount{o, o.keys.Clone()} }).(*stagedAccount)
	return a.keys
}

// KeysChanged reports whether a step changes the private keys.
func (o *Olm) KeysChanged(s *core.Step) bool { return s.Part(o, nil) != nil }

// ReadKeys returns the private keys as a step has staged them, only to be read.
func (o *Olm) ReadKeys(s *core.Step) *olm.Account {
	if a, ok := s.Part(o, nil).(*stagedAccount); ok {
		return a.keys
	}
	return o.keys
}

// SignAsDevice signs JSON with the device's own key.
func (o *Olm) SignAsDevice(raw json.RawMessage) (json.RawMessage, error) {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	return o.keys.SignJSON(raw, o.Account.User, o.ID)
}
