package e2ee

import (
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"
)

// Mode says what the proxy does for a device. The zero value encrypts nothing and
// lets nothing through into an encrypted room.
type Mode int

const (
	// ModeUnknown is a device not yet compared with the homeserver.
	ModeUnknown Mode = iota
	// ModeProxied is a device whose keys the proxy holds.
	ModeProxied
	// ModeForeign is a device that published keys that were never ours: as far as anybody
	// can tell its client does its own encryption. It is passed through, but for clear text
	// into encrypted rooms.
	ModeForeign
	// ModeNone is a token without a device (a guest or an application service): it
	// can hold no keys, so it may read as the homeserver allows but not send into
	// encrypted rooms.
	ModeNone
	// ModeLost is a device whose published keys were ours and are gone: nobody can use them.
	// It may read as the homeserver allows, but not send into encrypted rooms.
	ModeLost
)

// RoomEncryption is what is known of a room. The zero value means "cannot tell",
// and nothing may be sent.
type RoomEncryption int

const (
	// RoomUnknown cannot be told; sends are refused.
	RoomUnknown RoomEncryption = iota
	// RoomPlain has never been encrypted; sends pass through.
	RoomPlain
	// RoomEncrypted uses m.megolm.v1.aes-sha2.
	RoomEncrypted
	// RoomUnsupported is encrypted with an algorithm we do not know; sends are refused (requirement 20.2).
	RoomUnsupported
)

// Outgoing is a room event a client wants to send in clear.
type Outgoing struct {
	RoomID  id.RoomID
	Type    string
	TxnID   string // as the client chose it; the caller makes one for POST
	Content json.RawMessage
}

// Encrypted is what [Device.Encrypt] made of an Outgoing.
type Encrypted struct {
	// Content is the content of the m.room.encrypted event to send with the same transaction ID.
	Content json.RawMessage
	// EventID is set when this transaction was already sent: answer with it, send nothing.
	EventID id.EventID
}

// Incoming is an event of a room as the homeserver sent it.
type Incoming struct {
	RoomID id.RoomID
	Event  json.RawMessage
	// Redeliver asks for the event to be delivered again, in a later sync of this
	// client, when its key arrives after it. Set for events of a sync response.
	Redeliver bool
	// Order is where an event that is not encrypted stands.
	Order Order
	// Hold allows that the client is shown nothing of an event whose key may still come, until
	// it comes: see [UndecryptableHold]. Set for events that are new to the client, in a
	// sync that goes on from an earlier one.
	Hold bool
	// Wait is how long the batch may wait for keys that the account's backup has. The longest
	// of a batch counts.
	Wait time.Duration
}

// Order says how an event stands to the encryption of its room, as the room's history shows
// it. The zero value cannot tell: then a message in clear is marked, but not held back.
type Order int

const (
	// OrderUnknown is an event whose history is not shown.
	OrderUnknown Order = iota
	// OrderBefore is older than the encryption of its room: it may be in clear.
	OrderBefore
	// OrderAfter is newer.
	OrderAfter
)

// Opened is what the client gets instead of an Incoming.
type Opened struct {
	// Event is what the client is shown: the clear event, a placeholder, or the event
	// as it came with its mark. Never nil.
	Event json.RawMessage
	// Type is the event type in Event, for the client's filter.
	Type string
	// Decrypted reports whether Event is the clear text.
	Decrypted bool
	// Withheld reports whether Event is a placeholder for what was held back.
	Withheld bool
	// Hidden reports whether the client must not be shown the event at all: it was held back,
	// and the policy is to say nothing of it, or it waits for its key. Event is the
	// placeholder all the same.
	Hidden bool
}

// Section is the part of a sync response a room is in.
type Section int

// The sections of rooms in a sync response.
const (
	SectionJoin Section = iota + 1
	SectionInvite
	SectionKnock
	SectionLeave
)

// StateChange is a state event that matters to encryption: m.room.encryption,
// m.room.history_visibility or m.room.member.
type StateChange struct {
	Type     string
	StateKey string
	Content  json.RawMessage
}

// RoomUpdate is what a sync response says of one room, reduced to what matters to
// encryption, in the order of the events.
type RoomUpdate struct {
	RoomID  id.RoomID
	Section Section
	Limited bool
	Changes []StateChange
}

// SyncUpdate is a sync response reduced to what matters to encryption.
type SyncUpdate struct {
	// Since is the request's token; empty for an initial sync.
	Since     string
	NextBatch string
	ToDevice  []json.RawMessage
	Changed   []id.UserID // device_lists.changed
	Left      []id.UserID // device_lists.left
	// OneTimeKeys are the counts by algorithm; one that is missing is 0 (requirement 3.3). Nil
	// when the response has none, which means that there are no keys left at all.
	OneTimeKeys map[string]int
	// UnusedFallback is nil when the response does not have the field.
	UnusedFallback []string
	Rooms          []RoomUpdate
	// AccountData are the global account data events.
	AccountData []json.RawMessage
}

// SyncExtras is what the proxy adds to the client's sync response.
type SyncExtras struct {
	// ToDevice are the to-device events the client may see, in order: those of this
	// response that are not encryption traffic, after those that the proxy's own sync
	// received on the client's behalf. It replaces to_device.events.
	ToDevice []json.RawMessage
	// Late are events whose keys have arrived since they were delivered undecryptable,
	// by room; they go to the front of the room's timeline (or a new entry in rooms.join).
	Late map[id.RoomID][]json.RawMessage
	// Notices are warnings as events, by room; they go to the end of the room's timeline (or
	// a new entry in rooms.join).
	Notices map[id.RoomID][]json.RawMessage
	// Warnings goes under "dev.e2ee-proxy.warnings" when not empty.
	Warnings []Warning
}

// Warning is something the user must be told; see docs for its codes.
type Warning struct {
	ID      string      `json:"id"`
	Code    string      `json:"code"`
	UserID  id.UserID   `json:"user_id,omitempty"`
	RoomIDs []id.RoomID `json:"room_ids,omitempty"`
	Message string      `json:"message"`
	Since   time.Time   `json:"since"`
}
