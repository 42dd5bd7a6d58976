package e2ee

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/locks"
	"e2ee-proxy/store"
)

// megolmState decrypts room events: inbound sessions, and what waits for them.
type megolmState struct {
	*part
	host megolmStateHost

	// opens is held while a batch of events is decrypted and its indices are reserved.
	opens   locks.Mutex
	keySeq  int     // how often room keys were stored
	parked  int     // pending events added since the oldest were last deleted
	holding holding // see held.go
}

// megolmStateHost is what megolmState needs of the other parts.
type megolmStateHost interface {
	CancelKeyRequests(ctx context.Context, ch *store.Changes, by map[store.SessionRef]id.DeviceID) (done func(), err error)
	missedKeys(missing bool) int
	open(ctx context.Context, in []Incoming) (out []Opened, jobs []*eventJob, by *judgement)
	wakeWaiting()
}

// keysStored returns how often room keys were stored. The caller holds mu.
func (m *megolmState) keysStored() int { return m.keySeq }
