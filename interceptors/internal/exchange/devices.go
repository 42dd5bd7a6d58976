package exchange

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/internal/secret"
)

// Devices is what the interceptors need of an engine.
type Devices interface {
	// Device loads or adopts the device of an identity. It may talk to the homeserver the
	// first time.
	Device(ctx context.Context, who Identity) (Device, error)
	// HeldDevices lists the devices of a user that have used the proxy, see
	// [e2ee.Engine.HeldDevices].
	HeldDevices(ctx context.Context, user id.UserID) ([]e2ee.HeldDevice, error)
	// HeldIdentity returns the identity of such a device, or of the first of them when device is
	// empty, so that Device acts for it without its client. Whoever calls it knows that the
	// device's owner wants that. The error is [e2ee.ErrUnknownDevice] or
	// [e2ee.ErrSessionEnded]; Device may return them too, once the homeserver was asked.
	HeldIdentity(ctx context.Context, user id.UserID, device id.DeviceID) (Identity, error)
	// LoggedIn records a login that went through the proxy. password is empty unless the login
	// used one, and is used only for user-interactive authentication of the first bootstrap.
	// The caller overwrites it afterwards.
	LoggedIn(ctx context.Context, who Identity, password secret.Bytes) error
	// Refreshed records a new access token that the homeserver issued to a device for a
	// refresh token (requirement 22.3: the same device). who.Token is the new one. The
	// homeserver revokes the old one, and the refresh token that the client would need if it
	// never got this answer, as soon as the new one is used: so it is used only once the
	// client has used it or the old one is refused. A refused old token is no logout.
	Refreshed(ctx context.Context, who Identity) error
	// ClientHasKeys is called before device keys that a client made itself go upstream. finish
	// is nil when the proxy's own keys are published for the device: the upload must be
	// refused. Otherwise the proxy publishes none until finish is called, which must happen,
	// with whether the homeserver accepted the client's keys, which makes the device foreign.
	ClientHasKeys(ctx context.Context, who Identity) (finish func(ctx context.Context, accepted bool) error, err error)
	// ClientMayEncrypt is [e2ee.Device.ClientMayEncrypt] of the device of an identity, which is
	// not adopted. One that was never seen may.
	ClientMayEncrypt(ctx context.Context, who Identity) (bool, error)
	// Native returns the client of an identity as one with keys of its own; nil when
	// policy.native is off. No device is adopted by it.
	Native(ctx context.Context, who Identity) (Native, error)
	// Linked returns whose a link to a file is, which is who may have the file without a token
	// (media.links). found is false for what is no such link, or none any more.
	Linked(ctx context.Context, uri string) (who Identity, dev Device, found bool, err error)
	// RoomEncryption is that of a [Device], for a user whose token has no device.
	RoomEncryption(ctx context.Context, user id.UserID, room id.RoomID, read e2ee.StateReader) (e2ee.RoomEncryption, error)
	// NoteEncryption records, for all accounts, an encryption event that the homeserver has
	// just accepted, or shows.
	NoteEncryption(ctx context.Context, room id.RoomID, content []byte) error
	// MustEncrypt records that nothing may be sent to a room in clear, whatever its state
	// shows.
	MustEncrypt(ctx context.Context, room id.RoomID) error
	// Intents returns the requests of a user that must not be done twice, the oldest first; PutIntent
	// stores one before it goes to the homeserver, or what became of it, and DropIntent deletes
	// one of which nothing came.
	Intents(ctx context.Context, user id.UserID) ([]e2ee.Intent, error)
	PutIntent(ctx context.Context, user id.UserID, in e2ee.Intent) error
	DropIntent(ctx context.Context, user id.UserID, request string) error
	// HashIntent returns the keyed hash of what a client asks for with a device, HashJoined that of a
	// room it has joined.
	HashIntent(device id.DeviceID, content []byte) [32]byte
	HashJoined(room id.RoomID) uint64
	// Forget deletes devices that were logged out or deleted, with their keys (requirement
	// 22.1), if the homeserver confirms that their own tokens are dead. It does nothing when
	// devices is empty.
	Forget(ctx context.Context, user id.UserID, devices ...id.DeviceID) error
	// ForgetAll deletes all devices of a user but those in keep.
	ForgetAll(ctx context.Context, user id.UserID, keep ...id.DeviceID) error
	// ForgetAccount deletes everything of a user whose account was closed.
	ForgetAccount(ctx context.Context, user id.UserID) error
}

// Device is what the interceptors need of an [e2ee.Device].
type Device interface {
	Mode() e2ee.Mode
	// ClientMayEncrypt reports whether the device's client has keys of its own, or may still
	// upload some because the proxy has published none.
	ClientMayEncrypt() bool
	// RoomEncryption asks the homeserver when it is not known. On an error the caller must
	// refuse to send.
	RoomEncryption(ctx context.Context, room id.RoomID) (e2ee.RoomEncryption, error)
	// NoteEncryption records that the client has just encrypted a room (200 from upstream).
	NoteEncryption(ctx context.Context, room id.RoomID, content []byte) error
	// NoteMembership records a membership change that the homeserver has just
	// accepted from the client: an invite's 200 is enough to share with the invitee
	// (requirement 7.6).
	NoteMembership(ctx context.Context, room id.RoomID, user id.UserID, membership string) error
	// BeforeJoin has the device's keys and identity be there before it joins a room. It returns when
	// that is so, or has taken too long, and never holds a join up for good.
	BeforeJoin(ctx context.Context)
	// ShareHistory gives a user who is about to be invited the keys of the room's history that
	// may be passed on. It returns when that is done, or has taken too long, and never holds an
	// invitation up for good.
	ShareHistory(ctx context.Context, room id.RoomID, user id.UserID)
	// NoteVisibility records a change of m.room.history_visibility that the homeserver has
	// just accepted from the client.
	NoteVisibility(ctx context.Context, room id.RoomID, visibility string) error
	// TransactionTurn lets one request at a time send in a transaction, from before Encrypt until
	// after Sent.
	TransactionTurn(ctx context.Context, out e2ee.Outgoing) (give func(), err error)
	// Encrypt encrypts an event and shares the room key; when it returns everything is stored.
	Encrypt(ctx context.Context, out e2ee.Outgoing) (e2ee.Encrypted, error)
	// Sent records the event ID that the homeserver returned for an Outgoing that was sent
	// with the transaction ID txn.
	Sent(out e2ee.Outgoing, txn string, event id.EventID)
	// NotSent records that the homeserver refused it.
	NotSent(out e2ee.Outgoing, txn string)
	// ClearTransaction returns the transaction ID with which an event goes on in clear: the
	// client's own, unless that was used for something else.
	ClearTransaction(ctx context.Context, out e2ee.Outgoing) (string, error)
	// KnownEncrypted reports whether the room is known to be encrypted, from memory. In such a
	// room plain messages go through Open too (requirement 8.11).
	KnownEncrypted(room id.RoomID) bool
	// LoadRooms loads what is stored of rooms into memory, and returns of how many of them
	// anything is known.
	LoadRooms(ctx context.Context, rooms []id.RoomID) (heard int, err error)
	// Notice returns a warning that is shown as an event, by its event ID there; false when
	// there is none.
	Notice(ctx context.Context, room id.RoomID, event id.EventID) (json.RawMessage, bool, error)
	// NoticePlace returns the position in the room behind which the client was shown a notice;
	// empty when it was not.
	NoticePlace(ctx context.Context, room id.RoomID, event id.EventID) (string, error)
	// Open decrypts and judges a batch; it returns one Opened for each Incoming.
	Open(ctx context.Context, in []e2ee.Incoming) ([]e2ee.Opened, error)
	// Searches reports whether there is an index of the account's messages, and Search looks
	// in it.
	Searches() bool
	Search(ctx context.Context, q e2ee.SearchQuery) (e2ee.SearchResult, error)
	// Actions returns what the account's push rules say that is done about clear events, one
	// for each.
	Actions(ctx context.Context, events []e2ee.ClearEvent) ([]e2ee.PushAction, error)
	// MissedNotifications returns the notifications that the homeserver has not, the newest
	// first, and NotificationsListed forgets those that it lists after all.
	MissedNotifications(ctx context.Context) ([]e2ee.MissedNotification, error)
	NotificationsListed(ctx context.Context, events []id.EventID) error
	// Arrivals returns a context that is done when something for the client arrives; it is taken
	// before one looks for what is there.
	Arrivals() context.Context
	// BeginSync is called before the client's sync goes upstream with since.
	BeginSync(ctx context.Context, since string) (ClientSync, error)
	// Files returns the encrypted files of the device's account.
	Files() Files
	// Control returns the device as the control API sees it.
	Control() Control
	// BeginEvents is called before a request for the events from a token goes to the homeserver.
	BeginEvents(from string) ClientEvents
	// ControlRoom returns the account's control room as the device is shown it.
	ControlRoom() ControlRoom
	// RestoreStatus returns how far the whole history's keys are fetched; nil when that was not
	// asked for. It asks nobody.
	RestoreStatus() *e2ee.RestoreStatus
}

// ControlRoom is what the interceptors need of an [e2ee.ControlRoom]. Where the account has
// none, everything but On returns [e2ee.ErrNoControlRoom].
type ControlRoom interface {
	On() bool
	View(ctx context.Context) (*e2ee.ControlView, error)
	// Waiting reports whether there is something new for a client that comes with a token. Stream
	// says what, in an answer of the homeserver's that ends with next, another token; nil when
	// nothing is.
	Waiting(ctx context.Context, token string) (bool, error)
	Stream(ctx context.Context, token, next string) (*e2ee.ControlUpdate, error)
	// Alone is Stream for a client that asks for nothing else; end is a token of the room's own.
	Alone(ctx context.Context, token string) (u *e2ee.ControlUpdate, end string, err error)
	// Said records what the user wrote, by its ID; fresh is false if it is known already.
	Said(ctx context.Context, l e2ee.ControlLine) (fresh bool, err error)
	// Tell says something to the user, and Change changes it. TellOnce is Tell for a secret,
	// which ForgetSecrets takes out again.
	Tell(ctx context.Context, content json.RawMessage) (id.EventID, error)
	TellOnce(ctx context.Context, content json.RawMessage) (id.EventID, error)
	Change(ctx context.Context, event id.EventID, content json.RawMessage) error
	ForgetSecrets(ctx context.Context) error
	// Give records that the client has been sent what was said, from one number to another (by a
	// sync: from 0), and Given returns what it has been sent until now.
	Give(from, to int64)
	Given() e2ee.ControlGiven
	// Redact takes back one of the user's messages by an event with the ID by.
	Redact(ctx context.Context, event, by id.EventID, txn string) (found bool, err error)
	Leave(ctx context.Context) error
	Join(ctx context.Context) error
	MarkRead(ctx context.Context, event id.EventID) error
	// SetData replaces account data of the room.
	SetData(ctx context.Context, typ string, content json.RawMessage) error
}

// Native is what the interceptors need of an [e2ee.NativeClient].
type Native interface {
	// BeginQuery is called before the client's /keys/query goes to the homeserver.
	BeginQuery() NativeQuery
	// MayGet reports which devices may be given what the client claims or sends; on an error
	// none may.
	MayGet(ctx context.Context, to []e2ee.NativeRecipient) ([]bool, error)
	// MayClear reports whether the client may send keys that are not encrypted.
	MayClear() bool
	// MaySend returns why the client may not send encrypted events to a room.
	MaySend(ctx context.Context, room id.RoomID) error
	// SentEncrypted is called with the session of an event that the homeserver has accepted.
	SentEncrypted(room id.RoomID, of id.SessionID)
}

// NativeQuery is a /keys/query of a client that is under way.
type NativeQuery interface {
	// Answered learns from the answer and returns the devices that the client is not shown.
	// whole reports whether all devices of a user were asked for.
	Answered(ctx context.Context, res *e2ee.KeyAnswer, whole func(id.UserID) bool) (map[id.UserID][]id.DeviceID, error)
	// End must be called in every case.
	End()
}

// Files are the encrypted files that an account knows, by the URIs by which its clients name
// them.
type Files interface {
	// Lookup returns those that are known.
	Lookup(ctx context.Context, uris []string) (map[string]attachment.File, error)
	// Add stores one that was uploaded, or will be; it is forgotten if it is not used.
	Add(ctx context.Context, f attachment.File) error
	// Changed stores where one is in clear, or its thumbnail.
	Changed(ctx context.Context, uri string, f attachment.File) error
	// Use keeps those that an event is about to name, and Sent stores in which event they are.
	Use(ctx context.Context, uris []string) error
	Sent(ctx context.Context, uris []string, in id.EventID) error
	// Redacted lets those expire whose event was redacted.
	Redacted(ctx context.Context, event id.EventID) error
}

// ClientEvents is one request of a client in flight whose answer ends with a token.
type ClientEvents interface {
	// Leaving reports whether it must end in any case.
	Leaving() bool
	// Arrived is done when something for the client arrives while it waits at the homeserver.
	Arrived() context.Context
	// News reports whether there is something that the client's answer may have only with a token
	// that is new to the client.
	News(ctx context.Context) (bool, error)
	// Move has the homeserver's token move, so that what waits there ends. MoveIn returns how long
	// that is not possible, and Stood records that it has not moved.
	Move(ctx context.Context) error
	MoveIn() time.Duration
	Stood()
}

// ClientSync is one sync request of a client in flight.
type ClientSync interface {
	ClientEvents
	// Waiting reports whether there is something for the client now, so that its sync must not
	// wait at the homeserver.
	Waiting() bool
	// Stands reports whether an answer that ends with next cannot have all that is news.
	Stands(ctx context.Context, next string) (bool, error)
	// Commit processes and stores the effects of the response, which may be released only
	// afterwards.
	Commit(ctx context.Context, u e2ee.SyncUpdate) (e2ee.SyncExtras, error)
	// Unread returns the numbers of unread messages of a room, by the roots of threads: the
	// empty one stands for the main timeline, and without split for everything. It is asked
	// once the room's events have been opened. differs says that they are not the
	// homeserver's, known that there are any.
	Unread(room id.RoomID, split bool) (counts map[id.EventID]e2ee.UnreadCounts, differs, known bool)
	// End must be called in every case, also after Commit.
	End()
}

// Control is one device as the control API (/_e2ee_proxy/v1) sees it. A method that changes
// something has changed nothing when it returns an error, or can be repeated. Reads return
// what the homeserver shows now.
type Control interface {
	// Status may talk to the homeserver. Parts that could not be read are Problems, not
	// errors.
	Status(ctx context.Context) (e2ee.Status, error)
	// Checkup looks at everything that a conversation needs, link by link; with talk the device
	// sends a message to itself, in a room that it makes for that and leaves.
	Checkup(ctx context.Context, talk bool) ([]e2ee.CheckupLink, error)
	// Bootstrap creates what is missing and returns the recovery key, if one was made and can
	// still be read, else nothing. It never replaces an identity: ErrIdentityExists.
	Bootstrap(ctx context.Context, auth e2ee.UserAuth) (secret.String, error)
	// Recover takes the identity and the backup key from secret storage and signs the device.
	Recover(ctx context.Context, with e2ee.Recovery) error
	// ExportKeys writes the room keys as a file. On an error before it began it has written
	// nothing.
	ExportKeys(ctx context.Context, passphrase secret.String, w io.Writer) error
	// ImportKeys imports room keys from such a file: ErrNotAnExport, ErrWrongPassphrase,
	// ErrExportTooCostly. open returns a new reader of the file.
	ImportKeys(ctx context.Context, passphrase secret.String, open func() io.Reader) (e2ee.Imported, error)
	// RestoreHistory starts fetching all keys from the key backup: ErrNoBackup.
	RestoreHistory(ctx context.Context) error
	// Reset makes a new identity, secret storage and backup and returns the recovery key.
	Reset(ctx context.Context, auth e2ee.UserAuth) (secret.String, error)
	// ResetOnce is Reset, once for each request that is named.
	ResetOnce(ctx context.Context, request string, auth e2ee.UserAuth) (secret.String, error)
	// RecoveryKey returns the key that an automatic bootstrap made: ErrNoRecoveryKey when
	// there is none, it was deleted, or its time is over.
	RecoveryKey(ctx context.Context) (secret.String, error)
	// DeleteRecoveryKey deletes it; no error when there is none.
	DeleteRecoveryKey(ctx context.Context) error
	// User returns what is known of a user. A user never seen has State "none".
	User(ctx context.Context, user id.UserID) (e2ee.UserTrust, error)
	// Acknowledge accepts a changed identity: ErrMasterKeyNotCurrent when masterKey is not the
	// current one, ErrVerificationLost when the user was verified before. It is no error when
	// that key is the pinned one already.
	Acknowledge(ctx context.Context, user id.UserID, masterKey id.Ed25519) error
	// WithdrawVerification withdraws a verification: ErrNotVerified when there is none.
	WithdrawVerification(ctx context.Context, user id.UserID) error
	// SetOverride sets or removes the exception for a device: ErrUnknownDevice.
	SetOverride(ctx context.Context, user id.UserID, device id.DeviceID, trusted *bool) error
	// Warnings returns the pending warnings, oldest first.
	Warnings(ctx context.Context) ([]e2ee.Warning, error)
	// DismissWarning deletes a warning: ErrUnknownWarning.
	DismissWarning(ctx context.Context, warning string) error
	Verifier
}

// Verifier is what the control API needs for verifications, see [e2ee.Device].
type Verifier interface {
	// Verifications returns those that are under way, and those that ended a short while ago,
	// the newest first; Verification one of them: ErrNoVerification.
	Verifications(ctx context.Context) ([]e2ee.Verification, error)
	Verification(ctx context.Context, flow string) (e2ee.Verification, error)
	// RequestVerification asks a user, or another device of the own user, to verify.
	RequestVerification(ctx context.Context, user id.UserID, with e2ee.VerificationPartner) (e2ee.Verification, error)
	// AcceptVerification accepts an incoming one. StartEmoji chooses emoji.
	AcceptVerification(ctx context.Context, flow string) (e2ee.Verification, error)
	StartEmoji(ctx context.Context, flow string) (e2ee.Verification, error)
	// ConfirmEmoji says whether the emoji match; if not, the verification ends.
	ConfirmEmoji(ctx context.Context, flow string, match bool) (e2ee.Verification, error)
	// ScanQR takes the content of a code that the other side shows: ErrNotACode, ErrOtherCode.
	// An empty flow is the one that the code names.
	ScanQR(ctx context.Context, flow string, payload []byte) (e2ee.Verification, error)
	// ConfirmScanned says whether the other side says that it scanned the code shown here.
	ConfirmScanned(ctx context.Context, flow string, yes bool) (e2ee.Verification, error)
	CancelVerification(ctx context.Context, flow string) error
	// VerifyByFingerprint verifies a user whose identity was compared by its master key:
	// ErrMasterKeyNotCurrent, ErrUnverifiable.
	VerifyByFingerprint(ctx context.Context, user id.UserID, masterKey string) error
	// WatchVerifications returns a channel that is closed when something changes after the
	// call, or the engine ends.
	WatchVerifications(ctx context.Context) <-chan struct{}
}
