package e2ee

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/store"
)

// megolmState encrypts and decrypts room events: outbound sessions, and what waits for
// inbound ones.
type megolmState struct {
	*part
	host megolmStateHost

	// sends lets one send at a time prepare in a room. It has its own lock.
	sends    locks.Turns[id.RoomID]
	outbound map[id.RoomID]*outbound
	sent     map[store.TxnRef]id.EventID

	// opens is held while a batch of events is decrypted and its indices are reserved.
	opens   locks.Mutex
	keySeq  int     // how often room keys were stored
	parked  int     // pending events added since the oldest were last deleted
	holding holding // see held.go
}

// megolmStateHost is what megolmState needs of the other parts.
type megolmStateHost interface {
	CancelKeyRequests(ctx context.Context, ch *store.Changes, by map[store.SessionRef]id.DeviceID) (done func(), err error)
	Current(room id.RoomID, to *rooms.Audience) bool
	kickLocked()
	missedKeys(missing bool) int
	open(ctx context.Context, in []Incoming) (out []Opened, jobs []*eventJob, by *judgement)
	ShownKeys() json.RawMessage
	stillEligible(ctx context.Context, who *eligible) error
	wakeWaiting()
}

// keysStored returns how often room keys were stored. The caller holds mu.
func (m *megolmState) keysStored() int { return m.keySeq }
