package exchange

import (
	"io"
	"net/http"
	"net/url"

	"maunium.net/go/mautrix/id"

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
	// RequestID names the request in all replicas, also when it is made again because the one that
	// had it has ended; empty for a process alone.
	RequestID string
	// Again reports whether the request may have been done already, by a replica that ended before
	// it answered.
	Again bool
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
	// Held reports whether the request did not come with the device's token: its owner is known
	// in another way, and Token is the one that the proxy has, see [Devices].
	Held  bool
	Token secret.String
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
	// Stream replaces the body when it is not nil and Body is, with Length bytes, -1 when that
	// is not known, and ContentType. [http.NoBody] is none.
	Stream      io.Reader
	Length      int64
	ContentType string
}
