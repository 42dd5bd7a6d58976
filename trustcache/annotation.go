package trustcache

import (
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// AnnotationKey is the name under "unsigned" of the proxy's annotation of an event. What a
// homeserver sends under it is removed.
const AnnotationKey = "dev.e2ee-proxy.trust"

// Color is the shield of an event.
type Color string

// The colors.
const (
	ColorNone Color = "none"
	ColorGrey Color = "grey"
	ColorRed  Color = "red"
)

// Code is the reason for an event's shield, or why the event is not decrypted. The names
// are those of matrix-rust-sdk; empty means that there is nothing to say.
type Code string

// The codes of decrypted and withheld events.
const (
	CodeAuthenticityNotGuaranteed Code = "AuthenticityNotGuaranteed"
	CodeUnknownDevice             Code = "UnknownDevice"
	CodeUnsignedDevice            Code = "UnsignedDevice"
	CodeUnverifiedIdentity        Code = "UnverifiedIdentity"
	CodeVerificationViolation     Code = "VerificationViolation"
	CodeMismatchedSender          Code = "MismatchedSender"
	CodeSentInClear               Code = "SentInClear"
	CodeDeniedByRule              Code = "DeniedByRule"
)

// The codes of events that are not decrypted.
const (
	CodeMissingRoomKey      Code = "MissingRoomKey"
	CodeWithheld            Code = "Withheld"
	CodeUnknownMessageIndex Code = "UnknownMessageIndex"
	CodeMalformed           Code = "Malformed"
	CodeReplayed            Code = "Replayed"
)

// Annotation is added to an event for its client, under AnnotationKey.
type Annotation struct {
	Decrypted    bool                      `json:"decrypted"`
	Color        Color                     `json:"color"`
	Code         Code                      `json:"code,omitempty"`
	WithheldCode event.RoomKeyWithheldCode `json:"withheld_code,omitempty"`
	Message      string                    `json:"message,omitempty"`
	UserID       id.UserID                 `json:"user_id,omitempty"`
	DeviceID     id.DeviceID               `json:"device_id,omitempty"`
	Source       store.Source              `json:"source,omitempty"`
	SharedBy     id.UserID                 `json:"shared_by,omitempty"`
}

// Annotation returns the verdict in the form that the client reads. A withheld event counts
// as not decrypted.
func (v Verdict) Annotation() Annotation {
	color := v.Color
	if color == "" {
		color = ColorRed
	}
	return Annotation{
		Decrypted: v.Deliver == DeliverClear, Color: color, Code: v.Code, WithheldCode: v.WithheldCode,
		Message: v.Message, UserID: v.UserID, DeviceID: v.DeviceID, Source: v.Source, SharedBy: v.SharedBy,
	}
}

// message returns the text that a person reads (requirement 26.1).
func (c Code) message() string {
	switch c {
	case CodeAuthenticityNotGuaranteed:
		return "The authenticity of this encrypted message can't be guaranteed on this device."
	case CodeUnknownDevice:
		return "Encrypted by an unknown or deleted device."
	case CodeUnsignedDevice:
		return "Encrypted by a device not verified by its owner."
	case CodeUnverifiedIdentity:
		return "The sender's digital identity was reset, and the change has not been acknowledged."
	case CodeVerificationViolation:
		return "Encrypted by a previously-verified user who is no longer verified."
	case CodeMismatchedSender:
		return "The sender of this message does not match the owner of the device that encrypted it."
	case CodeDeniedByRule:
		return "Your organisation's rules do not let this message be shown."
	case CodeSentInClear:
		return "Not encrypted, although the room is."
	case CodeMissingRoomKey:
		return "Waiting for this message."
	case CodeWithheld:
		return "You don't have access to this message."
	case CodeUnknownMessageIndex:
		return "This message was sent before you were given access to the conversation."
	case CodeMalformed:
		return "This message is damaged and cannot be read."
	case CodeReplayed:
		return "This is a copy of an earlier message, and was refused."
	default:
		return ""
	}
}
