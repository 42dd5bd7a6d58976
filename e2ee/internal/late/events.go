package late

import (
	"context"
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/orgrules"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Events are a device's events that wait.
type Events struct {
	*core.Device
	keys *roomkeys.Inbound
	host Host

	// The device's lock guards these.
	parked  int // pending events added since the oldest were last deleted
	holding holding

	holds bool // an event whose key may come is not shown at first
}

// New returns the events of a device. With hold, an event whose key may come is not shown at
// first.
func New(dev *core.Device, keys *roomkeys.Inbound, hold bool, host Host) Events {
	return Events{Device: dev, keys: keys, holds: hold, host: host}
}

// Host is what Events need of the other parts of a device.
type Host interface {
	// OpenAgain decrypts and judges events, and returns one Event for each, in order.
	OpenAgain(ctx context.Context, rows []store.PendingEvent) ([]Event, Basis)
	// AskKeysLater has the user's other devices asked for missing keys. The caller holds the
	// device's lock.
	AskKeysLater()
	// WakeWaiting ends waiting syncs of the client. The caller holds the device's lock.
	WakeWaiting()
}

// Event is an event as it was judged.
type Event struct {
	*roomkeys.Event                 // nil when it is malformed
	Raw             json.RawMessage // as the homeserver sent it
	Redeliver       bool            // it may be delivered again
	Page            bool            // it is of a page that the client can ask for again
	Hold            bool            // it may be hidden until its key comes
	Withheld        bool            // its sender has said that the key will not come
	// Unknown is the user of whom more must become known before it can be shown; empty
	// otherwise.
	Unknown id.UserID

	// What the client is shown.
	Shown     json.RawMessage
	Decrypted bool
	Hidden    bool
}

// lacksKey reports whether the key of an event, or an earlier part of it, is not here.
func (ev *Event) lacksKey() bool {
	return errors.Is(ev.Err, roomkeys.ErrNoKey) || errors.Is(ev.Err, roomkeys.ErrTooEarly)
}

// waits reports whether an event that is not shown in clear may be later.
func (ev *Event) waits() bool {
	return ev.Event != nil && (ev.Unknown != "" || ev.lacksKey() || errors.Is(ev.Err, roomkeys.ErrOurs))
}

// Basis is what a batch of events was judged by.
type Basis struct {
	Keys  int // see roomkeys.Inbound.Stored, before they were opened
	Users map[id.UserID]*trustcache.User
	Rules *orgrules.Version
}
