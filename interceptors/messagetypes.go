package interceptors

import "e2ee-proxy/e2ee"

// Some clients put what they want to say into a state event. State is not encrypted
// (requirement 20.1), so what is a message by its type is not let through as state into a
// room that may be encrypted. A type that nobody knows is the client's own: whoever makes
// state of it wants state.

// isMessageType reports whether a type is one of messages, in the specification or a
// proposal of which clients send it.
func isMessageType(eventType string) bool { return e2ee.MessageType(eventType) }

// noState refuses a message that was to be state.
func noState() *Error {
	return BadJSON("Events of this type are messages, and no state: as state they would not be encrypted, so it was not sent.").
		WithHint("Send it as a message: PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}.")
}
