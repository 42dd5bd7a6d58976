package interceptors

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// Handler is one interceptor. It answers the client through x, or returns an error and has
// written nothing.
type Handler func(x *Exchange) error

// Exchange is one request on its way through the proxy, as the steps before the
// interceptor left it.
type Exchange struct {
	Writer http.ResponseWriter
	// Request has its body limited to the route's size.
	Request  *http.Request
	Endpoint Endpoint
	// Identity is the owner of the token. Zero on routes that need no token.
	Identity Identity
	Upstream Upstream
	Devices  Devices
}

// Endpoint is the parsed request target. What goes upstream is rebuilt from it.
type Endpoint struct {
	// Pattern names the route in logs and metrics, such as
	// "/_matrix/client/{version}/rooms/{roomId}/send/{eventType}/{txnId}".
	Pattern string
	// Version is the client-server API version segment: "v3", "r0", "unstable", "api/v1", …
	Version string
	// Params are the path parameters, percent-decoded exactly once.
	Params map[string]string
}

// Identity is the owner of an access token, as returned by /account/whoami.
type Identity struct {
	UserID   id.UserID
	DeviceID id.DeviceID // empty for a token without a device
	Guest    bool
	// Asserted reports whether the token is not this user's, but that of an application
	// service which acts as the user.
	Asserted bool
	Token    secret.String
}

// Upstream passes requests to the homeserver.
type Upstream interface {
	// Forward passes the request on unchanged, streaming both ways, and answers the client.
	Forward(x *Exchange) error
	// Do sends the exchange's request with the changes and returns the response. The caller
	// closes its body, which is never compressed: Do asks for none, whatever the client
	// accepts.
	Do(x *Exchange, c Change) (*http.Response, error)
	// Relay answers the client with a response of Do, unchanged: status, headers, body. A
	// caller that put another body into it has set its Content-Length as well.
	Relay(x *Exchange, resp *http.Response) error
}

// Change is what an interceptor changes in a request before it goes upstream. Zero
// fields keep what the client sent.
type Change struct {
	Method string
	// Pattern replaces [Endpoint.Pattern], so that a POST without a transaction ID can go
	// up as a PUT with one. Every parameter in it must be in Params or in the endpoint's.
	Pattern string
	// Params replaces path parameters by name.
	Params map[string]string
	// Query replaces the whole query when not nil.
	Query url.Values
	// Body replaces the body when not nil; its type is application/json.
	Body []byte
}

// Devices is what the interceptors need of an engine.
type Devices interface {
	// Device loads or adopts the device of an identity. It may talk to the homeserver the
	// first time.
	Device(ctx context.Context, who Identity) (Device, error)
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
	// RoomEncryption is that of a [Device], for a user whose token has no device.
	RoomEncryption(ctx context.Context, user id.UserID, room id.RoomID, read e2ee.StateReader) (e2ee.RoomEncryption, error)
	// NoteEncryption records, for all accounts, an encryption event that the homeserver has
	// just accepted, or shows.
	NoteEncryption(ctx context.Context, room id.RoomID, content []byte) error
	// MustEncrypt records that nothing may be sent to a room in clear, whatever its state
	// shows.
	MustEncrypt(ctx context.Context, room id.RoomID) error
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
	// RoomEncryption asks the homeserver when it is not known. On an error the caller must
	// refuse to send.
	RoomEncryption(ctx context.Context, room id.RoomID) (e2ee.RoomEncryption, error)
	// NoteEncryption records that the client has just encrypted a room (200 from upstream).
	NoteEncryption(ctx context.Context, room id.RoomID, content []byte) error
	// NoteMembership records a membership change that the homeserver has just
	// accepted from the client: an invite's 200 is enough to share with the invitee
	// (requirement 7.6).
	NoteMembership(ctx context.Context, room id.RoomID, user id.UserID, membership string) error
	// NoteVisibility records a change of m.room.history_visibility that the homeserver has
	// just accepted from the client.
	NoteVisibility(ctx context.Context, room id.RoomID, visibility string) error
	// Encrypt encrypts an event and shares the room key; when it returns everything is stored.
	Encrypt(ctx context.Context, out e2ee.Outgoing) (e2ee.Encrypted, error)
	// Sent records the event ID that the homeserver returned for an Outgoing.
	Sent(out e2ee.Outgoing, event id.EventID)
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
	// BeginSync is called before the client's sync goes upstream with since.
	BeginSync(ctx context.Context, since string) (ClientSync, error)
	// Control returns the device as the control API sees it.
	Control() Control
}

// ClientSync is one sync request of a client in flight.
type ClientSync interface {
	// Waiting reports whether there is something for the client now, so that its sync must not
	// wait at the homeserver.
	Waiting() bool
	// Arrived is closed when something for the client arrives while its sync waits.
	Arrived() <-chan struct{}
	// Commit processes and stores the effects of the response, which may be released only
	// afterwards.
	Commit(ctx context.Context, u e2ee.SyncUpdate) (e2ee.SyncExtras, error)
	// End must be called in every case, also after Commit.
	End()
}
