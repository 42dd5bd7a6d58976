package interceptors

import (
	"e2ee-proxy/e2ee/attachment"
	"e2ee-proxy/interceptors/internal/exchange"
)

// What package proxy and the handlers have in common, see package exchange.
type (
	// Handler is one interceptor. It answers the client, or returns an error and has written
	// nothing.
	Handler = exchange.Handler
	// Exchange is one request on its way through the proxy.
	Exchange = exchange.Exchange
	// Endpoint is the parsed request target.
	Endpoint = exchange.Endpoint
	// Identity is the owner of an access token.
	Identity = exchange.Identity
	// Upstream passes requests to the homeserver.
	Upstream = exchange.Upstream
	// Change is what an interceptor changes in a request before it goes upstream.
	Change = exchange.Change
	// Devices is what the interceptors need of an engine, Device of one of its devices.
	Devices = exchange.Devices
	Device  = exchange.Device
	// ClientSync is one sync request of a client in flight.
	ClientSync = exchange.ClientSync
)

// MaxValues is the largest number of JSON values in a request body that is parsed.
const MaxValues = exchange.MaxValues

// FilePieces is how many pieces of an upload are in memory at once, while it is encrypted.
const FilePieces = attachment.Pieces

// DecodingCost returns how much memory a request body of the given size takes at most, from
// its first byte to the answer.
func DecodingCost(size int64) int64 { return exchange.DecodingCost(size) }
