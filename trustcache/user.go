package trustcache

import (
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"
)

// Knowledge is how much is known of a user's devices. The zero value is nothing.
type Knowledge int

const (
	// KnowledgeUnknown is a user who was never asked about.
	KnowledgeUnknown Knowledge = iota
	// KnowledgeUnreachable is a user of whom nothing is known because their server could not
	// be asked: neither compliant nor unsigned (requirement 0.12).
	KnowledgeUnreachable
	// KnowledgeStale is what was known before a change, or before tracking stopped; asking
	// again has not succeeded yet.
	KnowledgeStale
	// KnowledgeFresh is what the homeserver answered after the last change that it reported.
	KnowledgeFresh
)

// User is an immutable snapshot of what an account knows of a user, safe to share. The
// receiver must not change what it points to.
type User struct {
	UserID    id.UserID
	Knowledge Knowledge
	// Own reports whether this is the account's own user.
	Own bool
	Identity
	Pin
	// Devices are sorted by device ID. Those with a Fault are listed but not usable.
	Devices []Device
	// Gone are devices that the homeserver does not show any more, and that the account does not
	// trust by exception. Nothing is known of them but their names and keys.
	Gone []Device
}

// Known reports whether there is anything to decide on.
func (u *User) Known() bool {
	return u != nil && (u.Knowledge == KnowledgeStale || u.Knowledge == KnowledgeFresh)
}

// Device returns the device with an ID, or nil.
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

// DeviceByCurve25519 returns the device with this Curve25519 key, or nil if there is none
// or two have the key (attack A16).
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

// OwnDevice compares the homeserver's copy of a proxied device with ours.
type OwnDevice int

const (
	// OwnDeviceUnknown means that the own user was not queried yet.
	OwnDeviceUnknown OwnDevice = iota
	// OwnDeviceAbsent means that the homeserver has no keys of the device.
	OwnDeviceAbsent
	// OwnDeviceForeign means that it has keys that are not ours (requirement 2.10).
	OwnDeviceForeign
	// OwnDeviceUnsigned means that it has our keys, not signed by the owner's current
	// identity.
	OwnDeviceUnsigned
	// OwnDeviceSigned means that it has our keys, signed by the owner's current identity.
	OwnDeviceSigned
)

// CompareOwn compares a device of the own user on the homeserver with the keys that we
// hold.
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
