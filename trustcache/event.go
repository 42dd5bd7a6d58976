package trustcache

import (
	"time"

	"maunium.net/go/mautrix/id"
)

// EventKind is the kind of an [Event].
type EventKind int

const (
	// EventPin is a transition of a user's pin: Effect, State.
	EventPin EventKind = iota + 1
	// EventDevices is a change of a user's devices: Added, Removed, Signed, Unsigned.
	EventDevices
	// EventDevicesRefused are devices whose update was refused: an Ed25519 or Curve25519 key
	// changed under a living device ID (requirement 2.8), or the new object is invalid. The
	// old devices stay.
	EventDevicesRefused
	// EventIdentityRefused is an identity that was refused because of a wrong signature or
	// key. The old identity stays.
	EventIdentityRefused
	// EventOverride is a change of the exception for a device.
	EventOverride
)

// Event is a change that a Tracker reports, for warnings, logs and metrics. It holds no
// secrets.
type Event struct {
	Kind   EventKind
	UserID id.UserID
	Own    bool
	At     time.Time

	Effect PinEffect
	State  PinState // after the change
	// ByOwnChange reports whether a verification was lost because our own identity changed.
	ByOwnChange bool

	Added, Removed, Signed, Unsigned, Refused []id.DeviceID
	// Override is the new exception of the one device in Added.
	Override Override
}
