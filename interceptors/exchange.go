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

// Handler is one interceptor. It answers the client through x, or returns an error
// and has written nothing.
type Handler func(x *Exchange) error

// Exchange is one request on its way through the proxy, as the steps before the
// interceptor left it.
type Exchange struct {
	Writer http.ResponseWriter
	// Request has its body limited to the route's size.
	Request  *http.Request
	Endpoint Endpoint
	// Identity is who asks. Zero on routes that need no token.
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

// Identity is the owner of an access token, as /account/whoami told.
type Identity struct {
	UserID   id.UserID
	DeviceID id.DeviceID // empty for a token without a device
	Guest    bool
	// Asserted says that the token is not this user's, but that of an application service
	// which acts as the user.
	Asserted bool
	Token    secret.String
}

// Upstream is the way to the homeserver.
type Upstream interface {
	// Forward passes the request on unchanged, streaming both ways, and answers the client.
	Forward(x *Exchange) error
	// Do sends the exchange's request with the changes and gives the response. The caller
	// closes its body, which is never compressed: Do asks for none, whatever the client accepts.
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

// Devices gives the device that an identity stands for.
type Devices interface {
	// Device loads or adopts the device. It may talk to the homeserver the first time.
	Device(ctx context.Context, who Identity) (Device, error)
	// LoggedIn tells of a login that went through the proxy; password is empty unless
	// the login used one, and serves user-interactive auth of the first bootstrap only. The
	// caller overwrites it afterwards.
	LoggedIn(ctx context.Context, who Identity, password secret.Bytes) error
	// Refreshed tells that the homeserver gave a device a new access token for a refresh
	// token (requirement 22.3: the same device). who.Token is the new one. The homeserver
	// revokes the old one, and the refresh token that the client would need if it never got
	// this answer, as soon as the new one is used: so it is used only once the client has
	// used it or the old one is refused. A refused old token is no logout.
	Refreshed(ctx context.Context, who Identity) error
	// ClientHasKeys is called before device keys that a client made itself go upstream.
	// settle is nil when the proxy's own keys are published for the device: the upload
	// must be refused. Otherwise the proxy publishes none until settle, which must be called, says whether
	// the homeserver accepted the client's, which makes the device foreign.
	ClientHasKeys(ctx context.Context, who Identity) (settle func(ctx context.Context, accepted bool) error, err error)
	// RoomEncryption is that of a [Device] for a user whose token has none.
	RoomEncryption(ctx context.Context, user id.UserID, room id.RoomID, read e2ee.StateReader) (e2ee.RoomEncryption, error)
	// NoteEncryption records an encryption event that the homeserver has just accepted, or
	// shows, for everybody.
	NoteEncryption(ctx context.Context, room id.RoomID, content []byte) error
	// MustEncrypt records that nothing goes to a room in clear, whatever it shows.
	MustEncrypt(ctx context.Context, room id.RoomID) error
	// Forget drops devices that were logged out or deleted, with their keys
	// (requirement 22.1), where the homeserver confirms that their own tokens are dead. It
	// names none and does nothing when devices is empty.
	Forget(ctx context.Context, user id.UserID, devices ...id.DeviceID) error
	// ForgetAll drops all devices of a user but those that are kept.
	ForgetAll(ctx context.Context, user id.UserID, keep ...id.DeviceID) error
	// ForgetAccount drops everything of a user whose account was closed.
	ForgetAccount(ctx context.Context, user id.UserID) error
}

// Device is what the interceptors need of an [e2ee.Device].
type Device interface {
	Mode() e2ee.Mode
	// RoomEncryption asks the homeserver when it is not known. An error means: cannot tell, refuse.
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
	// Encrypt encrypts and shares the room key; on return everything is stored.
	Encrypt(ctx context.Context, out e2ee.Outgoing) (e2ee.Encrypted, error)
	// Sent records the event ID that the homeserver gave to an Outgoing.
	Sent(out e2ee.Outgoing, event id.EventID)
	// KnownEncrypted reports whether the room is known to be encrypted, from memory. In
	// such a room plain messages go through Open too, see design §5 (SentInClear).
	KnownEncrypted(room id.RoomID) bool
	// LoadRooms makes known from memory what is stored of rooms, and tells of how many of them
	// anything was ever heard.
	LoadRooms(ctx context.Context, rooms []id.RoomID) (heard int, err error)
	// Notice gives a warning that is shown as an event, by the ID it has there; false when
	// there is none.
	Notice(ctx context.Context, room id.RoomID, event id.EventID) (json.RawMessage, bool, error)
	// NoticePlace gives the position in the room behind which the client was shown a notice;
	// empty when it was not.
	NoticePlace(ctx context.Context, room id.RoomID, event id.EventID) (string, error)
	// Open decrypts and judges a batch; it gives one Opened for each Incoming.
	Open(ctx context.Context, in []e2ee.Incoming) ([]e2ee.Opened, error)
	// BeginSync is called before the client's sync goes upstream with since.
	BeginSync(ctx context.Context, since string) (ClientSync, error)
	// Control is what the control API does with the device.
	Control() Control
}

// ClientSync is one sync request of a client in flight.
type ClientSync interface {
	// Waiting reports whether there is something for the client now, so that its sync
	// must not wait at the homeserver.
	Waiting() bool
	// Arrived is closed when something for the client arrives while its sync waits.
	Arrived() <-chan struct{}
	// Commit processes and stores the effects of the response. Only then may it be released.
	Commit(ctx context.Context, u e2ee.SyncUpdate) (e2ee.SyncExtras, error)
	// End must be called in every case, also after Commit.
	End()
}
