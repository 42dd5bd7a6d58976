package e2ee

import (
	"encoding/json"

	"e2ee-proxy/e2ee/internal/wire"
)

// What the homeserver's answers come to, for those who call the engine.
type (
	// UpstreamError is an answer of the homeserver that is not a success, or none at all.
	UpstreamError = wire.UpstreamError
	// AuthNeededError says that the homeserver asks for user-interactive authentication.
	AuthNeededError = wire.AuthNeededError
)

// ErrAnswerTooLarge means that an answer of the homeserver is larger than the engine takes.
var ErrAnswerTooLarge = wire.ErrAnswerTooLarge

// ClearRelation returns what of a relation may stand in clear, nil when it is nothing. more
// says that the relation has anything beyond that.
func ClearRelation(relation json.RawMessage) (clear json.RawMessage, more bool) {
	return wire.ClearRelation(relation)
}

// MessageType reports whether a type is one that clients show as a message.
func MessageType(eventType string) bool { return wire.MessageType(eventType) }

// PlainReaction reports whether a reaction says nothing but what it is a reaction to, and
// with what.
func PlainReaction(event json.RawMessage) bool { return wire.PlainReaction(event) }
