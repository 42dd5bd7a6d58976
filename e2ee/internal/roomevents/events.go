package roomevents

import (
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"
)

// Incoming is a room event as the homeserver sent it.
type Incoming struct {
	RoomID id.RoomID
	Event  json.RawMessage
	// Redeliver asks for the event to be delivered again in a later sync if its key arrives
	// later. It is set for events of a sync response.
	Redeliver bool
	// Page reports that the event is of a page that the client can ask for again. A fault of
	// ours is then an error, and Redeliver is bounded, see package late.
	Page bool
	// Order is the event's place in the room's history, for events in clear.
	Order Order
	// Hold allows to hide the event until its key comes, see [UndecryptableHold]. It is set
	// for events that are new to the client, in a sync that continues an earlier one.
	Hold bool
	// Wait is how long the batch may wait for keys from the account's backup. The longest
	// of a batch counts.
	Wait time.Duration
}

// Order says whether an event is older or newer than its room's encryption, as the room's
// history shows it. With the zero value a message in clear is marked, but not withheld.
type Order int

const (
	// OrderUnknown means that the history does not show it.
	OrderUnknown Order = iota
	// OrderBefore means older than the encryption: the event may be in clear.
	OrderBefore
	// OrderAfter means newer than the encryption.
	OrderAfter
)

// Opened is what the client is shown in place of an Incoming.
type Opened struct {
	// Event is what the client is shown: the clear event, a placeholder, or the event
	// as it came with its mark. Never nil.
	Event json.RawMessage
	// ID is the event's; empty when it has none or is broken.
	ID id.EventID
	// Type is the event type in Event, for the client's filter.
	Type string
	// Decrypted reports whether Event is the clear text.
	Decrypted bool
	// Withheld reports whether Event is a placeholder.
	Withheld bool
	// Hidden reports whether the client must not be shown the event at all: it is withheld
	// and the policy hides such events, or it waits for its key. Event is the placeholder
	// nevertheless.
	Hidden bool
}

// Undecryptable is what a client is shown of an event that cannot be decrypted. In every
// case it gets the clear event when the key arrives.
type Undecryptable int

const (
	// UndecryptableHold shows nothing at first, because many keys arrive a moment after
	// their event. After that, or at once if the key will not come, it shows a placeholder.
	// Some clients answer every encrypted event that they see.
	UndecryptableHold Undecryptable = iota
	// UndecryptablePlaceholder shows a placeholder at once.
	UndecryptablePlaceholder
	// UndecryptableEvent shows the event as it came.
	UndecryptableEvent
)
