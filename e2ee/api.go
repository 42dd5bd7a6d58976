package e2ee

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/files"
	"e2ee-proxy/e2ee/internal/notices"
	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/ownidentity"
	"e2ee-proxy/e2ee/internal/rollout"
	"e2ee-proxy/e2ee/internal/roomevents"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/searchindex"
	"e2ee-proxy/e2ee/internal/status"
	"e2ee-proxy/e2ee/internal/takeover"
	"e2ee-proxy/e2ee/internal/unread"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// RoomEncryption is whether a room is encrypted. The zero value means "cannot tell", and
// nothing may be sent.
type RoomEncryption = rooms.Encryption

// Whether a room is encrypted, see package rooms.
const (
	RoomUnknown     = rooms.Unknown
	RoomPlain       = rooms.Plain
	RoomEncrypted   = rooms.Encrypted
	RoomUnsupported = rooms.Unsupported
)

// StateReader returns the content of a room's state event with an empty state key, as the
// homeserver shows it to one user. [ErrNoState] means that there is none, [ErrNotInRoom]
// that the user is not shown it. With every other error nothing is known.
type StateReader = rooms.StateReader

type (
	// Outgoing is a room event that a client sends in clear.
	Outgoing = roomkeys.Outgoing
	// Encrypted is the result of [Device.Encrypt].
	Encrypted = roomkeys.Encrypted
)

type (
	// Incoming is a room event as the homeserver sent it.
	Incoming = roomevents.Incoming
	// Order says whether an event is older or newer than its room's encryption, as the room's
	// history shows it.
	Order = roomevents.Order
	// Opened is what the client is shown in place of an Incoming.
	Opened = roomevents.Opened
	// Undecryptable is what a client is shown of an event that cannot be decrypted.
	Undecryptable = roomevents.Undecryptable
)

// Where events stand, and what clients are shown of those that cannot be decrypted, see
// package roomevents.
const (
	OrderUnknown = roomevents.OrderUnknown
	OrderBefore  = roomevents.OrderBefore
	OrderAfter   = roomevents.OrderAfter

	UndecryptableHold        = roomevents.UndecryptableHold
	UndecryptablePlaceholder = roomevents.UndecryptablePlaceholder
	UndecryptableEvent       = roomevents.UndecryptableEvent
)

// Files is what an account knows of encrypted files.
type Files = files.Account

type (
	// RoomUpdate is the part of a sync response about one room that matters to encryption, in
	// the order of the events.
	RoomUpdate = rooms.Update
	// StateChange is a state event that matters to encryption.
	StateChange = rooms.StateChange
	// Section is the part of a sync response that a room is in.
	Section = rooms.Section
)

// The sections of rooms in a sync response.
const (
	SectionJoin   = rooms.SectionJoin
	SectionInvite = rooms.SectionInvite
	SectionKnock  = rooms.SectionKnock
	SectionLeave  = rooms.SectionLeave
)

// SyncUpdate is the part of a sync response that matters to encryption.
type SyncUpdate struct {
	// Since is the request's token; empty for an initial sync.
	Since     string
	NextBatch string
	ToDevice  []json.RawMessage
	Changed   []id.UserID // device_lists.changed
	Left      []id.UserID // device_lists.left
	// OneTimeKeys are the counts by algorithm; a missing algorithm counts as 0 (requirement
	// 3.3). Nil when the response has no counts, which means that no keys are left.
	OneTimeKeys map[string]int
	// UnusedFallback is nil when the response does not have the field.
	UnusedFallback []string
	Rooms          []RoomUpdate
	// AccountData are the global account data events.
	AccountData []json.RawMessage
	Unread      UnreadUpdate
	// Verifying are the events in clear, in timelines, that MaybeVerification.
	Verifying []RoomEvent
}

type (
	// UnreadUpdate is what a sync response says of unread messages, by UnreadRoom.
	UnreadUpdate = unread.Update
	UnreadRoom   = unread.Room
	// UnreadEvent is what matters of an event in a timeline, UnreadRelation to what it
	// belongs, UnreadReceipt a receipt of the user, and UnreadCounts are numbers of unread
	// messages.
	UnreadEvent    = unread.Event
	UnreadRelation = unread.Relation
	UnreadReceipt  = unread.Receipt
	UnreadCounts   = unread.Counts
	// ClearEvent is an event to which push rules are applied, PushAction what they say.
	ClearEvent = unread.Seen
	PushAction = unread.Action
	// MissedNotification is a notification that the homeserver has not.
	MissedNotification = unread.Missed
)

// UnreadRef returns what stands for an event's ID in an UnreadEvent.
func UnreadRef[T id.EventID | []byte](event T) unread.Ref { return unread.RefOf(event) }

// Unread returns the numbers of unread messages of a room, see [unread.Account.Counts]. It is
// asked once the events of the response have been opened.
func (s *ClientSync) Unread(room id.RoomID, split bool) (counts map[id.EventID]UnreadCounts, differs, known bool) {
	return s.d.acct.unread.Counts(room, s.unread[room], split)
}

// Actions returns what the account's push rules say that is done about clear events, one for
// each, see [unread.Account.Actions].
func (d *Device) Actions(ctx context.Context, events []ClearEvent) ([]PushAction, error) {
	return d.acct.unread.Actions(ctx, unread.As(d.core, &d.rooms), events)
}

// MissedNotifications returns notifications that the homeserver has not, see
// [unread.Account.Missed], and NotificationsListed forgets those that it has after all.
func (d *Device) MissedNotifications(ctx context.Context) ([]MissedNotification, error) {
	return d.acct.unread.Missed(ctx)
}

// NotificationsListed is described at MissedNotifications.
func (d *Device) NotificationsListed(ctx context.Context, events []id.EventID) error {
	return d.acct.unread.Listed(ctx, events)
}

// takeUnread records what a sync says of the unread messages of encrypted rooms. Of others
// the homeserver knows everything.
func (s *ClientSync) takeUnread(ctx context.Context, u UnreadUpdate, rooms []RoomUpdate) error {
	var left []id.RoomID
	for i := range rooms {
		if rooms[i].Section == SectionLeave {
			left = append(left, rooms[i].RoomID)
		}
	}
	u.Rooms = slices.DeleteFunc(u.Rooms, func(r UnreadRoom) bool { return !s.d.rooms.KnownEncrypted(r.RoomID) })
	s.unread = make(map[id.RoomID]*UnreadRoom, len(u.Rooms))
	for i := range u.Rooms {
		s.unread[u.Rooms[i].RoomID] = &u.Rooms[i]
	}
	return s.d.acct.unread.Take(ctx, u, left)
}

// countUnread applies the push rules to the events of a sync.
func (d *Device) countUnread(ctx context.Context, in []Incoming, out []Opened) error {
	return d.acct.unread.Opened(ctx, unread.As(d.core, &d.rooms), unread.OfSync(in, out))
}

// countLate applies the push rules to events that could not be decrypted when they came.
func (d *Device) countLate(ctx context.Context, late map[id.RoomID][]json.RawMessage) error {
	return d.acct.unread.Opened(ctx, unread.As(d.core, &d.rooms), unread.OfLate(late))
}

// SyncExtras is what the proxy adds to the client's sync response.
type SyncExtras struct {
	// ToDevice replaces to_device.events: first the events that the proxy's own syncs kept
	// for the client, then those of this response without encryption traffic.
	ToDevice []json.RawMessage
	// Late are events that could not be decrypted when they were delivered and can be now,
	// by room; they go to the front of the room's timeline (or a new entry in rooms.join).
	Late map[id.RoomID][]json.RawMessage
	// Notices are warnings as events, by room; they go to the end of the room's timeline (or
	// a new entry in rooms.join).
	Notices map[id.RoomID][]json.RawMessage
	ControlExtras
	// Warnings goes under "dev.e2ee-proxy.warnings" when not empty.
	Warnings []Warning
}

// Warning is something the user must be told; see docs for its codes.
type Warning = notices.Warning

// Errors of the engine, with their meaning in package core. Callers turn them into Matrix
// errors.
var (
	ErrCannotEncrypt        = core.ErrCannotEncrypt
	ErrClosed               = core.ErrClosed
	ErrDeviceNotSigned      = core.ErrDeviceNotSigned
	ErrIdentityExists       = core.ErrIdentityExists
	ErrKeysLost             = core.ErrKeysLost
	ErrKeysRefused          = core.ErrKeysRefused
	ErrKeysReplaced         = core.ErrKeysReplaced
	ErrLeaseLost            = core.ErrLeaseLost
	ErrMasterKeyNotCurrent  = core.ErrMasterKeyNotCurrent
	ErrNoBackup             = core.ErrNoBackup
	ErrNoIdentity           = core.ErrNoIdentity
	ErrNoPassphrase         = core.ErrNoPassphrase
	ErrNoRecoveryKey        = core.ErrNoRecoveryKey
	ErrNoSecretStorage      = core.ErrNoSecretStorage
	ErrNoState              = core.ErrNoState
	ErrNotInRoom            = core.ErrNotInRoom
	ErrNotJoined            = core.ErrNotJoined
	ErrNotProxied           = core.ErrNotProxied
	ErrNotVerified          = core.ErrNotVerified
	ErrNotYetEncrypted      = core.ErrNotYetEncrypted
	ErrReload               = core.ErrReload
	ErrSessionEnded         = core.ErrSessionEnded
	ErrSecretMismatch       = core.ErrSecretMismatch
	ErrSecretMissing        = core.ErrSecretMissing
	ErrSignatureNotShown    = core.ErrSignatureNotShown
	ErrSignatureRefused     = core.ErrSignatureRefused
	ErrUnknownDevice        = core.ErrUnknownDevice
	ErrUnknownUser          = core.ErrUnknownUser
	ErrUnknownWarning       = core.ErrUnknownWarning
	ErrUnsupportedAlgorithm = core.ErrUnsupportedAlgorithm
	ErrVerificationLost     = core.ErrVerificationLost
	ErrWrongPassword        = core.ErrWrongPassword
	ErrWrongRecoveryKey     = core.ErrWrongRecoveryKey
)

type (
	// SearchOptions are the settings of the search indexes, see package searchindex, which
	// has the other types as well.
	SearchOptions  = searchindex.Options
	SearchQuery    = searchindex.Query
	SearchTerm     = searchindex.Term
	SearchKey      = searchindex.Key
	SearchTexts    = searchindex.Texts
	SearchPosition = searchindex.Position
	SearchHit      = searchindex.Hit
	SearchResult   = searchindex.Result
	SearchState    = searchindex.State
)

// The members of a content that can be searched.
const (
	SearchBody  = searchindex.KeyBody
	SearchName  = searchindex.KeyName
	SearchTopic = searchindex.KeyTopic
)

// NewSearchTerm returns what a text asks for.
func NewSearchTerm(text string) SearchTerm { return searchindex.NewTerm(text) }

// SearchTextsOf returns what can be found in a content.
func SearchTextsOf(eventType string, content json.RawMessage) SearchTexts {
	said, err := strictjson.Parse(content)
	if err != nil {
		return nil
	}
	return searchindex.TextsOf(eventType, said)
}

// Searches reports whether there is an index of the device's messages.
func (d *Device) Searches() bool { return d.core.Mode == core.ModeProxied && d.acct.search.On() }

// Search looks for messages in the account's index.
func (d *Device) Search(ctx context.Context, q SearchQuery) (SearchResult, error) {
	if !d.Searches() {
		return SearchResult{}, core.ErrNotProxied
	}
	found, err := d.acct.search.Search(ctx, d.core, q)
	d.searchAgain()
	return found, err
}

// searchAgain has an index that was lost filled again.
func (d *Device) searchAgain() {
	if d.Searches() && d.acct.search.Refilling() {
		d.kick()
	}
}

type (
	// IdentityChangedError means that encrypted sending is blocked until identity changes are
	// acknowledged.
	IdentityChangedError = core.IdentityChangedError
	// RuledError means that somebody in the room may not have its keys, by an organisation's rules.
	RuledError = core.RuledError
	// UserAuth is a caller's answer to user-interactive authentication.
	UserAuth = core.UserAuth
	// Recovery is a recovery key or a passphrase, exactly one of them.
	Recovery = ownidentity.Recovery
	// RestoreStatus is the progress of a restore.
	RestoreStatus = ownbackup.RestoreStatus
	// Status is the state of a device and its owner's identity, as read from the homeserver.
	Status         = status.Status
	DeviceKeys     = status.Keys
	IdentityStatus = status.Identity
	StorageStatus  = status.Storage
	BackupStatus   = status.Backup
	DeviceTrust    = status.Device
	UserDevice     = status.Override
	// Problem is one thing that is wrong, and what to do about it.
	Problem = status.Problem
	// PolicyStatus is how strictly the policy is applied now, and what enforcing it would have
	// done: WouldHave, by room RoomWouldHave.
	PolicyStatus  = rollout.Status
	WouldHave     = rollout.WouldHave
	RoomWouldHave = rollout.RoomWouldHave
	// AccountSettings are the settings of one account.
	AccountSettings = core.AccountSettings
	// Mode says what the proxy does for a device.
	Mode = core.Mode
)

// The modes of devices, see package core.
const (
	ModeUnknown = core.ModeUnknown
	ModeProxied = core.ModeProxied
	ModeForeign = core.ModeForeign
	ModeNone    = core.ModeNone
	ModeLost    = core.ModeLost
)

// WellFormedRecoveryKey reports whether a text is a recovery key: base58 with the two bytes
// and the parity of the specification (Client-Server API, Key representation), spaces
// anywhere. Whether it is the account's key only the homeserver can tell.
func WellFormedRecoveryKey(key secret.String) bool { return ownidentity.WellFormedRecoveryKey(key) }

type (
	// Takeover is a device as another program kept it, see package takeover.
	Takeover           = takeover.Device
	TakeoverOlmSession = takeover.OlmSession
	TakeoverRoomKey    = takeover.RoomKey
	// TakenOver counts what was taken of a device, and what could not be read.
	TakenOver = takeover.Taken
)

// Reasons why nothing of a device is taken over.
var (
	ErrTakeoverHere     = takeover.ErrHere
	ErrTakeoverOtherKey = takeover.ErrOtherKey
	ErrTakeoverFormat   = takeover.ErrFormat
)

// TakeOver stores a device that another program had, for somebody who can open the database
// while no engine does.
func TakeOver(ctx context.Context, db *store.DB, from Takeover) (TakenOver, error) {
	return takeover.Take(ctx, db, from, time.Now())
}

// UserTrust is what is known of a user.
type UserTrust struct {
	UserID           id.UserID       `json:"user_id"`
	State            string          `json:"state"`
	PinnedMasterKey  id.Ed25519      `json:"pinned_master_key"`
	CurrentMasterKey id.Ed25519      `json:"current_master_key"`
	Devices          []status.Device `json:"devices"`
}

// Results of calls to the homeserver, for the engine's callers.
type (
	// UpstreamError is an error response of the homeserver, or none at all.
	UpstreamError = wire.UpstreamError
	// AuthNeededError says that the homeserver asks for user-interactive authentication.
	AuthNeededError = wire.AuthNeededError
)

// ErrAnswerTooLarge means that an answer of the homeserver is larger than the engine takes.
var ErrAnswerTooLarge = wire.ErrAnswerTooLarge

// ClearRelation returns the part of a relation that may stay in clear, nil when there is
// none. more reports whether the relation has anything else.
func ClearRelation(relation json.RawMessage) (clear json.RawMessage, more bool) {
	return wire.ClearRelation(relation)
}

// MessageType reports whether a type is one that clients show as a message.
func MessageType(eventType string) bool { return wire.MessageType(eventType) }

// PlainReaction reports whether a reaction contains only what it reacts to, and with what.
func PlainReaction(event json.RawMessage) bool { return wire.PlainReaction(event) }
