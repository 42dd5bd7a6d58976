package trustcache

import (
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"
)

// Knowledge says how much is known of a user's devices. The zero value is nothing.
type Knowledge int

const (
	// KnowledgeUnknown is a user who was never asked about.
	KnowledgeUnknown Knowledge = iota
	// KnowledgeUnreachable is a user whose server could not be asked, and of whom nothing
	// was known before: neither compliant nor unsigned (0.12).
	KnowledgeUnreachable
	// KnowledgeStale is what was known before something changed, or before tracking
	// stopped; asking again has not succeeded yet.
	KnowledgeStale
	// KnowledgeFresh is what the homeserver said after the last change it told us of.
	KnowledgeFresh
)

// User is what an account knows of a user: an immutable snapshot, safe to share. The
// receiver must not change what it points to.
type User struct {
	UserID    id.UserID
	Knowledge Knowledge
	// Own says that this is the account's own user.
	Own bool
	Identity
	Pin
	// Devices are sorted by device ID. Those with a Fault are listed but not usable.
	Devices []Device
}

// Known reports whether there is anything to decide on.
func (u *User) Known() bool {
	return u != nil && (u.Knowledge == KnowledgeStale || u.Knowledge == KnowledgeFresh)
}

// Device gives the device with an ID, or nil.
func (u *User) Device(device id.DeviceID) *Device {
	if u == nil {
		return nil
	}
	i, found := slices.BinarySearchFunc(u.Devices, device, func(d Device, want id.DeviceID) int {
		return strings.Compare(string(d.DeviceID), string(want))
	})
	if !found {
		return nil
	}
	return &u.Devices[i]
}

// DeviceByCurve25519 gives the device with an identity key, or nil. When two devices
// claim the key neither is given (attack A16).
func (u *User) DeviceByCurve25519(key id.Curve25519) *Device {
	if u == nil || key == "" {
		return nil
	}
	var found *Device
	for i := range u.Devices {
		if u.Devices[i].Curve25519 != key {
			continue
		}
		if found != nil {
			return nil
		}
		found = &u.Devices[i]
	}
	return found
}

// KeyCollision reports whether the user has a device whose ID or key is one of their
// cross-signing keys. Such a user must not be verified (requirement 1.26).
func (u *User) KeyCollision() bool {
	for i := range u.Devices {
		if u.Devices[i].Fault == FaultIdentityKey {
			return true
		}
	}
	return false
}

// OwnDevice says how the homeserver's copy of a proxied device compares with ours.
type OwnDevice int

const (
	// OwnDeviceUnknown cannot be told: the own user was not queried yet.
	OwnDeviceUnknown OwnDevice = iota
	// OwnDeviceAbsent has no keys on the homeserver.
	OwnDeviceAbsent
	// OwnDeviceForeign has keys that are not ours (requirement 2.10).
	OwnDeviceForeign
	// OwnDeviceUnsigned has our keys and no signature of the owner's current identity.
	OwnDeviceUnsigned
	// OwnDeviceSigned has our keys, signed by the owner's current identity.
	OwnDeviceSigned
)

// CompareOwn compares a device of the own user with the keys that are really ours.
func (u *User) CompareOwn(device id.DeviceID, ed id.Ed25519, curve id.Curve25519) OwnDevice {
	if !u.Known() {
		return OwnDeviceUnknown
	}
	d := u.Device(device)
	switch {
	case d == nil:
		return OwnDeviceAbsent
	case d.Ed25519 != ed || d.Curve25519 != curve:
		return OwnDeviceForeign
	case d.Signed && d.Usable():
		return OwnDeviceSigned
	default:
		return OwnDeviceUnsigned
	}
}
