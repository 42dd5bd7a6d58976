package e2ee

import (
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// olmState is a device's side of its Olm sessions: its private keys, what is known of those
// of others, and what waits to be sent through them. The sessions themselves are in the store.
type olmState struct {
	account *olmAccount
	noKeys  map[store.DeviceRef]retry // devices that had no one-time key for us
	begun   map[id.Curve25519]int     // see noteBegun
	wedges  *wedges                   // nil: not read; replaced, never changed

	// outboxTurn lets one flush at a time run. It has a lock of its own.
	outboxTurn    turns[struct{}]
	outboxPending bool
}
