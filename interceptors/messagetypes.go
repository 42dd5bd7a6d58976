package interceptors

import "strings"

// Some clients put what they want to say into a state event. State is not encrypted
// (requirement 20.1), so what is a message by its type is not let through as state into a
// room that may be encrypted. A type that nobody knows is the client's own: whoever makes
// state of it wants state.

// isMessageType reports whether a type is one of messages, in the specification or a
// proposal of which clients send it.
func isMessageType(eventType string) bool {
	switch eventType {
	case typeMessage, typeSticker, typeEncrypted, typeReaction, typeRedaction, "m.room.message.feedback",
		// MSC3489, MSC3672: where somebody is. (m.beacon_info, that it is shared, is state.)
		"m.beacon", "org.matrix.msc3489.beacon", "org.matrix.msc3672.beacon",
		// Extensible events: MSC1767, 3246, 3488, 3551, 3552, 3553, 3927, 3954, 3955.
		"m.message", "m.emote", "m.notice", "m.text", "m.location", "m.file", "m.image", "m.image_gallery", "m.video",
		"m.audio", "m.voice", "m.encrypted":
		return true
	case "m.call.member": // MSC3401, MSC4143: who takes part in a call
		return false
	}
	for _, prefix := range []string{
		"m.key.verification.", "m.poll.", "org.matrix.msc3381.",
		"m.call.", "org.matrix.call.", // a call's offers and answers, which say where one is reached
		"org.matrix.msc1767.", "org.matrix.msc3246.", "org.matrix.msc3488.", "org.matrix.msc3551.", "org.matrix.msc3552.",
		"org.matrix.msc3553.", "org.matrix.msc3927.", "org.matrix.msc3954.",
	} {
		if strings.HasPrefix(eventType, prefix) {
			return true
		}
	}
	return false
}

// noState refuses a message that was to be state.
func noState() *Error {
	return BadJSON("Events of this type are messages, and no state: as state they would not be encrypted, so it was not sent.").
		WithHint("Send it as a message: PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}.")
}
