package rules

import "maunium.net/go/mautrix/id"

// Direction is what the question is about. The zero value is none, and denied.
type Direction int

// The directions.
const (
	DirectionNone Direction = iota
	// SendKey is a room key for a device.
	SendKey
	// ShowMessage is a decrypted message for an account.
	ShowMessage
	// Secret is one of the account's secrets for another device of its own.
	Secret
)

// String returns the name in rules and metrics.
func (d Direction) String() string {
	switch d {
	case SendKey:
		return "send_key"
	case ShowMessage:
		return "show_message"
	case Secret:
		return "secret"
	case DirectionNone:
	}
	return "none"
}

// Device is how far the device of the other side is trusted. The zero value is not known.
type Device int

// How far a device is trusted.
const (
	DeviceUnknown Device = iota
	// DeviceUnproven is that of a message whose key came without proof of its sender.
	DeviceUnproven
	// DeviceUnconfirmed is one that its owner has not signed, or whose owner's identity changed.
	// It is met only where the policy is on warn or off, and for clients with keys of their own.
	DeviceUnconfirmed
	// DeviceException is one that its owner has not signed and the account made an exception for.
	DeviceException
	// DeviceConfirmed is one that its owner has signed.
	DeviceConfirmed
	// DeviceVerified is a confirmed one whose owner the account has verified. What is said of
	// confirmed devices holds for it too.
	DeviceVerified
)

// String returns the name in rules.
func (d Device) String() string {
	switch d {
	case DeviceUnproven:
		return "unproven"
	case DeviceUnconfirmed:
		return "unconfirmed"
	case DeviceException:
		return "exception"
	case DeviceConfirmed:
		return "confirmed"
	case DeviceVerified:
		return "verified"
	case DeviceUnknown:
	}
	return "unknown"
}

// Question asks whether something that would be given or shown is narrowed.
type Question struct {
	Direction Direction
	// Account is the account here, User and Device the other side. For a secret both users are
	// the same.
	Account id.UserID
	User    id.UserID
	Device  Device
	// Room is the room that it is about; nil for a secret, which is about none.
	Room *Room
	// AnyRoom says that it is about a room, and nobody knows which: it is denied only if it is
	// whatever the room may be. Room is nil.
	AnyRoom bool
}

// Room is what is known of a room. It is never changed once it was asked with.
type Room struct {
	ID id.RoomID
	// State is nil when it is not known.
	State *RoomState
	// Servers are those of the members, each once, if MembersKnown.
	Servers      []string
	MembersKnown bool
}

// RoomState is what rules ask of a room's state.
type RoomState struct {
	JoinRule          string
	HistoryVisibility string
	// Aliases are those that the room names itself. A room can name any: what must hold is said
	// of its ID.
	Aliases []string
}

// public reports whether anybody may join the room, or read it without joining.
func (s *RoomState) public() bool {
	return s.JoinRule == "public" || s.HistoryVisibility == "world_readable"
}

// Needs is what a [Set] asks of rooms in one direction, besides their ID.
type Needs struct{ State, Members bool }

// Any reports whether anything is asked.
func (n Needs) Any() bool { return n.State || n.Members }

// Effect is the outcome of a decision. The zero value denies.
type Effect int

const (
	// Deny narrows: nothing is given or shown.
	Deny Effect = iota
	// Allow leaves it as it was decided without the rules.
	Allow
)

// String returns the name in rules and metrics.
func (e Effect) String() string {
	if e == Allow {
		return "allow"
	}
	return "deny"
}

// Answer is the answer to a [Question]. The zero value denies.
type Answer struct {
	Effect Effect
	// Rule is the name of the rule that decided; empty when none matched.
	Rule string
	// Reason tells a person why it is denied.
	Reason string
	// Failed reports that the rule asked for what is not known, and therefore denies.
	Failed bool
	// OnError is what the rule that allows says for when the decision point does not answer.
	OnError OnError
}

// OnError is what becomes of something when the decision point does not answer. The zero value
// leaves it to the setting for all.
type OnError int

const (
	// OnErrorUnset is what a rule says that says nothing.
	OnErrorUnset OnError = iota
	// OnErrorDeny denies.
	OnErrorDeny
	// OnErrorAllow leaves it as the rules decided.
	OnErrorAllow
)
