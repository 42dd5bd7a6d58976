package trustcache

import (
	"time"

	"maunium.net/go/mautrix/id"
)

// EventKind says what a [Tracker] noticed.
type EventKind int

const (
	// EventPin is a transition of a user's pin: Effect, State, Previous, Master.
	EventPin EventKind = iota + 1
	// EventDevices is a change of a user's devices: Added, Removed, Signed, Unsigned.
	EventDevices
	// EventDevicesRefused are devices whose update was refused: an Ed25519 or Curve25519
	// key changed under a living device ID (requirement 2.8), or the new object is bad.
	// What was known before stays.
	EventDevicesRefused
	// EventIdentityRefused is an identity that was refused because a signature or
	// a key in it is wrong. What was known before stays.
	EventIdentityRefused
	// EventOverride is a change of the exception for a device; it is to be logged.
	EventOverride
)

// Event is something a Tracker noticed, for warnings, logs and metrics. It holds no secrets.
type Event struct {
	Kind   EventKind
	UserID id.UserID
	Own    bool
	At     time.Time

	Effect   PinEffect
	State    PinState // after it
	Previous id.Ed25519
	Master   id.Ed25519
	// ByOwnChange says that a verification was lost because our own identity changed.
	ByOwnChange bool

	Added, Removed, Signed, Unsigned, Refused []id.DeviceID
	// Override is the new exception of the one device in Added.
	Override Override
}
