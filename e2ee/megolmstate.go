package e2ee

import (
	"sync"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// megolmState is what a device sends and reads with room keys.
type megolmState struct {
	// sends lets one send at a time prepare in a room. It has a lock of its own.
	sends    turns[id.RoomID]
	outbound map[id.RoomID]*outbound
	sent     map[store.TxnRef]id.EventID

	// opens is held while a batch of events is decrypted and its indices are claimed.
	opens   sync.Mutex
	keySeq  int     // how often room keys were stored
	parked  int     // events that wait, added since the oldest were last forgotten
	holding holding // see held.go
}
