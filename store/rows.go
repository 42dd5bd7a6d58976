package store

import (
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// DeviceState says who holds the private keys of a proxied device. The zero value is not
// usable for encryption.
type DeviceState int

const (
	// DeviceUnknown is a device that has not been compared with the homeserver yet.
	DeviceUnknown DeviceState = iota
	// DeviceOurs is a device whose keys were made, and are held, by this proxy.
	DeviceOurs
	// DeviceForeign is a device that published keys which are not ours: its client does its
	// own encryption, as far as anybody can tell.
	DeviceForeign
	// DeviceLost is a device that published keys which were ours: their private halves are
	// gone.
	DeviceLost
)

// Device is one proxied device of an account.
type Device struct {
	ID       int64 // assigned by the database
	DeviceID id.DeviceID
	State    DeviceState

	Ed25519    string       // public, unpadded base64
	Curve25519 string       // public, unpadded base64
	Olm        secret.Bytes // goolm account pickle; sealed
	// KeysUploaded is set once the homeserver has accepted the device keys.
	KeysUploaded bool
	// FallbackChangedAt is when the current fallback key was made, or published.
	FallbackChangedAt time.Time
	// SyncPosition is the since token up to which everything was processed and stored.
	SyncPosition string
	// Token is the access token last seen for this device, for the proxy's own sync; sealed.
	Token secret.String
	// Meta holds small facts of the engine that need no column of their own. Not sealed.
	Meta json.RawMessage
	// Restored reports whether the database was restored from a backup: the homeserver may
	// have handed out one-time keys that Olm does not know of, or that it still counts as new.
	// The engine clears it once it has dealt with that.
	Restored bool
	// DeadKeys is how far the engine is in replacing the keys of which, since a restore, the
	// homeserver has the public half only.
	DeadKeys DeadKeys
}

// DeadKeys are the steps towards a homeserver without dead keys.
type DeadKeys int

// The homeserver may hold dead keys; it holds a fallback key that is alive, and the others
// are claimed until none is left; they are gone, and new ones are to be published.
const (
	DeadKeysNone DeadKeys = iota
	DeadKeysFound
	DeadKeysClaimed
	DeadKeysGone
)

// OlmSession is one Olm session with another device. Pickle and With are sealed.
type OlmSession struct {
	SessionID string
	TheirKey  string // Curve25519, unpadded base64
	// With is the Ed25519 key of the device that the session is with, unpadded base64: anybody can
	// claim a Curve25519 key as their own. Empty in rows from before it was kept.
	With           string
	Pickle         secret.Bytes
	CreatedAt      time.Time
	LastReceivedAt time.Time
}

// Source says how a room key reached us.
type Source string

// The sources of a room key. Only SourceDirect carries proof of its sender.
const (
	SourceDirect    Source = "direct"
	SourceBackup    Source = "backup"
	SourceImport    Source = "import"
	SourceBundle    Source = "bundle"
	SourceForwarded Source = "forwarded"
)

// SessionRef names a Megolm session.
type SessionRef struct {
	RoomID    id.RoomID
	SessionID id.SessionID
}

// InboundSession is a Megolm session we can decrypt with. Pickle and Owner are sealed.
type InboundSession struct {
	SessionRef
	Pickle secret.Bytes
	// Owner is the sender of the key when it arrived, as e2ee wrote it (JSON).
	Owner         secret.Bytes
	Source        Source
	FirstIndex    uint32
	SharedHistory bool
	ReceivedAt    time.Time
	// BackupVersion is the key backup version that has this session (at this first index);
	// empty when none has.
	BackupVersion string
}

// SessionOwner replaces the Owner of an InboundSession and nothing else of it.
type SessionOwner struct {
	SessionRef
	Owner secret.Bytes
}

// IndexRef names one message of a Megolm session.
type IndexRef struct {
	SessionRef
	Index uint32
}

// MessageIndex records which event used an index, against replays.
type MessageIndex struct {
	IndexRef
	EventID   id.EventID
	Timestamp int64 // origin_server_ts
}

// OutboundSession is the Megolm session of a room for sending. Pickle is sealed.
//
// It moves forward only. Saving the session that is stored needs more Messages than are
// stored; saving another needs at most one message or a later CreatedAt. Anything else is
// [ErrStale] and nothing is written: somebody else has used the session. To change only
// Discard, use Changes.DiscardOutbound; it stays set for as long as the session is the
// same.
type OutboundSession struct {
	RoomID    id.RoomID
	SessionID id.SessionID
	Pickle    secret.Bytes
	CreatedAt time.Time
	Messages  uint32 // messages encrypted so far
	// Settings is the snapshot under which the session was made, as e2ee wrote it (JSON, not
	// secret).
	Settings json.RawMessage
	// Discard reports whether the session must not be used again; the next send rotates.
	Discard bool
}

// Share records that a device got a session key, or an m.room_key.withheld. It is saved
// together with its OutboundSession or later: shares of other sessions get pruned.
type Share struct {
	SessionID  id.SessionID
	UserID     id.UserID
	DeviceID   id.DeviceID
	Curve25519 string
	// Index is the first message index the device can decrypt. Meaningless when withheld.
	Index uint32
	// Withheld is the code of the m.room_key.withheld that the device got; empty when it has
	// the key.
	Withheld string
}

// TxnRef names a transaction of a device at the homeserver.
type TxnRef struct {
	RoomID id.RoomID
	Type   string // event type as the homeserver is sent it
	TxnID  string
}

// Transaction records what a client sent in a transaction, so that a retry sends the same
// ciphertext or gets the same event, and another event is sent in a transaction of its own.
// Ciphertext is not secret. What is stored never changes.
type Transaction struct {
	TxnRef
	// Said is a keyed hash of what the client sent, see [DB.HashSaid]; zero where it is not
	// known.
	Said [32]byte
	// Ciphertext is the content of the m.room.encrypted event; empty when it was sent in clear.
	Ciphertext json.RawMessage
	CreatedAt  time.Time
}

// OutboxItem is a to-device request that must reach the homeserver, byte for byte
// the same on every try (requirement 5.5).
type OutboxItem struct {
	TxnID     string
	EventType string
	// Seq orders the items of a device; assigned by the database.
	Seq  int64
	Body json.RawMessage // {"messages": …}
	// Recipe is what e2ee makes the body of, which is empty then. Sealed.
	Recipe    secret.Bytes
	CreatedAt time.Time
}

// Room is what is known of a room's encryption. Once Algorithm is set it is never cleared.
type Room struct {
	RoomID            id.RoomID
	Algorithm         string // empty: not known to be encrypted
	RotationPeriod    time.Duration
	RotationMessages  int64
	HistoryVisibility string
	EncryptedSince    time.Time
}

// Secret is a named secret of an account (cross-signing seeds, recovery key, backup
// key, …). Value is sealed; Meta is not.
type Secret struct {
	Name      string
	Value     secret.Bytes
	Meta      json.RawMessage
	CreatedAt time.Time
}

// PendingEvent is an event that could not be decrypted when it was delivered, or that was
// withheld. Event is the m.room.encrypted event as it came.
type PendingEvent struct {
	SessionRef
	EventID id.EventID
	// From is the user because of whose device an event was withheld; empty for an event that
	// waits for its key.
	From       id.UserID
	Event      json.RawMessage
	ReceivedAt time.Time
	// Ready is set when its key has arrived, or more is known of From.
	Ready bool
	// DeliveredAt is the next_batch of the client's sync response that carried it again.
	DeliveredAt string
	// HeldUntil is until when the client sees nothing of it; zero when it saw something.
	// PlacedAt is the next_batch of the response with its placeholder.
	HeldUntil time.Time
	PlacedAt  string
}

// InboxItem is a to-device event for the client that the proxy's own sync received.
// Event is sealed.
type InboxItem struct {
	Seq         int64 // assigned by the database
	Event       secret.Bytes
	DeliveredAt string // next_batch of the response that carried it
}

// WithheldNote is an m.room_key.withheld that we received. It proves nothing.
type WithheldNote struct {
	SessionRef
	Code   string
	Reason string
}

// User is what an account knows of another user (or of its own): tracking, the
// identity the homeserver shows, and the pin.
type User struct {
	UserID   id.UserID
	Tracked  bool
	Outdated bool
	// Failures counts failed queries in a row; RetryAt is when the next one may be made.
	Failures int
	RetryAt  time.Time

	Master      json.RawMessage // as the homeserver sent it, verified
	SelfSigning json.RawMessage
	UserSigning json.RawMessage // own user only

	// PinnedMaster is the public master key the account has accepted.
	PinnedMaster string
	// Verified reports whether our user-signing key has signed the current master key.
	Verified bool
	// WasVerified is set with Verified, and cleared only by withdrawing.
	WasVerified bool
	ChangedAt   time.Time
}

// UserDevice is a device of a tracked user. Keys is the raw device keys object whose
// self-signature was checked.
type UserDevice struct {
	UserID     id.UserID
	DeviceID   id.DeviceID
	Ed25519    string
	Curve25519 string
	Keys       json.RawMessage
	// Signed reports whether the owner's current self-signing key has signed the device.
	Signed bool
	// Override is the account owner's exception for the device: nil none, true trusted, false
	// distrusted.
	Override *bool
	// OverrideAt is when it was made, and OverrideBy with which device of the account; neither
	// is known of older ones.
	OverrideAt time.Time
	OverrideBy id.DeviceID
}

// UserChange is one line of the history of a user's pin: never updated, never deleted
// while the account exists. Rows of one user are ordered by Seq.
type UserChange struct {
	Seq    int64 // assigned by the database
	UserID id.UserID
	At     time.Time
	// Kind is the kind of change, as trustcache names it ("changed", "acknowledged", …).
	Kind string
	// Previous and Master are the public master keys before and after; either may be empty.
	Previous string
	Master   string
}

// Warning is a warning to the account's owner.
type Warning struct {
	ID        string
	Code      string
	UserID    id.UserID
	RoomIDs   []id.RoomID
	Message   string
	Since     time.Time
	Dismissed bool
	Resolved  bool
}
