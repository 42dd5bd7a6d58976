package e2ee

import (
	"encoding/json"

	"e2ee-proxy/e2ee/internal/wire"
)

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
