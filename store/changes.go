package store

import (
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/secret"
)

// Changes is everything that one step of the engine stores. [DB.Save] writes it in one
// transaction: all of it or nothing. Within it, deletions come before upserts.
type Changes struct {
	// Device, when not nil, replaces the device's row.
	Device *Device
	// SyncPosition, when not nil, moves the device's position without touching the rest of its row.
	SyncPosition *string

	DeleteOlmSessions []string // session IDs
	OlmSessions       []OlmSession
	// OlmSteps move sessions whose rows stay as they are; DeleteOlmSteps name earlier ones.
	DeleteOlmSteps []int64
	OlmSteps       []OlmSteps
	// OlmChanges, when not nil, is how often the device's Olm sessions were changed before this;
	// if it was another number, nothing is saved, and the error is [ErrStale].
	OlmChanges *int64

	InboundSessions []InboundSession
	// Owners is applied after InboundSessions, and ignores sessions that do not exist.
	Owners         []SessionOwner
	MoreOwners     []MoreOwners
	MessageIndices []MessageIndex // first write wins; an existing row is kept

	// DiscardSent deletes the device's Olm sessions, its outbound sessions and their shares,
	// as [DB.DiscardOutboundState] does for all devices.
	DiscardSent      bool
	DiscardOutbound  []id.RoomID // sets Discard
	OutboundSessions []OutboundSession
	Shares           []Share

	Transactions []Transaction
	// NewTransactions must not be stored yet: else nothing is saved, and the error is
	// [ErrTransactionTaken].
	NewTransactions []Transaction
	DeleteOutbox    []string // transaction IDs
	Outbox          []OutboxItem

	Rooms []Room

	DeletePending []id.EventID
	Pending       []PendingEvent
	ReadyPending  []SessionRef // sets Ready of the events that wait for these sessions
	// ReadyPendingFrom sets Ready of the events that were withheld because of devices of these
	// users, for every device of the account.
	ReadyPendingFrom []id.UserID
	// ReadyWithheld sets Ready of all events that were withheld, for every device of the account.
	ReadyWithheld  bool
	MarkPending    []id.EventID // sets DeliveredAt of these to MarkDelivered
	PlacePending   []id.EventID // sets PlacedAt of these to MarkDelivered
	ShownPending   []id.EventID // clears HeldUntil and PlacedAt
	DeleteInbox    []int64
	Inbox          []InboxItem
	MarkInbox      []int64 // sets DeliveredAt of these to MarkDelivered
	MarkDelivered  string
	Withheld       []WithheldNote
	DeleteWithheld []SessionRef

	// Seen are digests of Olm messages that were processed; see requirement 3.8.
	Seen []SeenMessage

	// Account scope.
	Users []User
	// OutdatedUsers sets Outdated and clears Failures and RetryAt of those that are tracked,
	// and leaves the rest of their rows: a query may be writing the same row. LeftUsers clears
	// Tracked and sets Outdated, likewise. Both are applied after Users, and ignore users
	// without a row.
	OutdatedUsers []id.UserID
	LeftUsers     []id.UserID
	UserChanges   []UserChange // appended

	DeleteDevices []DeviceRef
	UserDevices   []UserDevice
	// DeleteDistrusts and Distrusts are of distrusted devices that the homeserver does not show:
	// their names and keys, and when and by which device that was said.
	DeleteDistrusts, Distrusts []UserDevice

	Secrets       []Secret
	DeleteSecrets []string
	Warnings      []Warning
	Unread        []UnreadRoom
	// Notifications, when not nil, replaces the account's list; an empty one deletes it.
	Notifications *secret.Bytes
	// ControlRoom, when not nil, replaces the account's control room.
	ControlRoom secret.Bytes

	// DropSearch deletes the account's search index, DeleteSearch segments of it.
	DropSearch   bool
	DeleteSearch []int64
	Search       []SearchPart

	// Files replace rows, NewFiles keep those that exist. UsedFiles stay until something else
	// is said of them, SentFiles are in an event, and after the redaction of RedactedFiles'
	// they expire at FilesExpireAt.
	Files, NewFiles []File
	UsedFiles       []string
	SentFiles       []string
	SentFilesIn     id.EventID
	RedactedFiles   id.EventID
	FilesExpireAt   time.Time

	// Backed marks sessions as stored in a key backup version.
	Backed []BackedSession

	// Audit is appended to the audit log, which does not end with the account.
	Audit []*audit.Record
}

// DeviceRef names a device of a user.
type DeviceRef struct {
	UserID   id.UserID
	DeviceID id.DeviceID
}

// SeenMessage is the digest of an Olm message that was processed.
type SeenMessage struct {
	Digest [32]byte
	At     time.Time
}

// BackedSession records that a session, from this first index on, is in a backup version.
type BackedSession struct {
	SessionRef
	FirstIndex uint32
	ReceivedAt time.Time
	Version    string
}
