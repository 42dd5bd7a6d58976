package interceptors

import (
	"context"
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
	Token    secret.String
}

// Upstream is the way to the homeserver.
type Upstream interface {
	// Forward passes the request on unchanged, streaming both ways, and answers the client.
	Forward(x *Exchange) error
	// Do sends the exchange's request with the changes and gives the response. The caller closes its body.
	Do(x *Exchange, c Change) (*http.Response, error)
	// Relay answers the client with a response of Do, unchanged: status, headers, body.
	Relay(x *Exchange, resp *http.Response) error
}

// Change is what an interceptor changes in a request before it goes upstream. Zero
// fields keep what the client sent.
type Change struct {
	Method string
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
	// the login used one, and serves user-interactive auth of the first bootstrap only.
	LoggedIn(ctx context.Context, who Identity, password secret.String) error
	// Forget drops a device whose token was logged out or whose device was deleted, with its keys.
	Forget(ctx context.Context, user id.UserID, devices ...id.DeviceID) error
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
	// Encrypt encrypts and shares the room key; on return everything is stored.
	Encrypt(ctx context.Context, out e2ee.Outgoing) (e2ee.Encrypted, error)
	// Sent records the event ID that the homeserver gave to an Outgoing.
	Sent(ctx context.Context, out e2ee.Outgoing, event id.EventID) error
	// Open decrypts and judges a batch; it gives one Opened for each Incoming.
	Open(ctx context.Context, in []e2ee.Incoming) []e2ee.Opened
	// BeginSync is called before the client's sync goes upstream with since.
	BeginSync(ctx context.Context, since string) (ClientSync, error)
}

// ClientSync is one sync request of a client in flight.
type ClientSync interface {
	// Commit processes and stores the effects of the response. Only then may it be released.
	Commit(ctx context.Context, u e2ee.SyncUpdate) (e2ee.SyncExtras, error)
	// End must be called in every case, also after Commit.
	End()
}
