package interceptors

import (
	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
)

// Some clients send messages as state events. State is not encrypted (requirement 20.1), so
// an event of a message's type is not accepted as state in a room that may be encrypted. An
// unknown type is the client's own: whoever sends state of it means state.

// isMessageType reports whether a type is a message's, in the specification or in a
// proposal that clients implement.
func isMessageType(eventType string) bool { return e2ee.MessageType(eventType) }

// messageAsState refuses a message sent as state.
func messageAsState() *apierr.Error {
	return apierr.BadJSON("Events of this type are messages, and no state: as state they would not be encrypted, so it was not sent.").
		WithHint("Send it as a message: PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}.")
}
