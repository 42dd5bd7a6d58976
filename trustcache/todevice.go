package trustcache

import "strings"

// ToDeviceOutcome is the decision about a decrypted to-device message. The zero value drops
// it.
type ToDeviceOutcome int

const (
	// ToDeviceDrop does nothing with the message. The Olm session it came over stays.
	ToDeviceDrop ToDeviceOutcome = iota
	// ToDeviceProcess processes the message.
	ToDeviceProcess
)

// ToDevice decides whether a decrypted to-device message is processed. Messages whose
// effect is judged later, or that carry their own proof, are taken from anybody; everything
// else only from a device that its owner has signed and whose owner's identity is accepted.
// Dehydrated devices send nothing (requirement 24.2).
func ToDevice(eventType string, from Owner, user *User, mode Mode) ToDeviceOutcome {
	from, _ = from.Upgrade(user)
	if from.UserID == "" || from.Curve25519 == "" {
		return ToDeviceDrop
	}
	var device *Device
	if user != nil && user.UserID == from.UserID {
		device, _ = user.sender(from)
	}
	override := user.exceptionFor(from, device)
	switch {
	case device == nil && from.saysDehydrated(), device != nil && device.Dehydrated:
		return ToDeviceDrop
	case judgedLater(eventType):
		return ToDeviceProcess
	case override == OverrideDistrusted:
		return ToDeviceDrop
	case mode == ModeWarn || mode == ModeOff || override == OverrideTrusted:
		return ToDeviceProcess
	case from.Signed && user.Known() && user.State().Accepted():
		return ToDeviceProcess
	default:
		return ToDeviceDrop
	}
}

func judgedLater(eventType string) bool {
	switch eventType {
	case "m.room_key", "m.room_key.withheld", "m.room_key_request", "m.secret.request":
		return true
	default:
		return strings.HasPrefix(eventType, "m.key.verification.")
	}
}
