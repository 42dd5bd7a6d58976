package trustcache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
)

// Override is the account owner's explicit exception for one device, for development
// and testing (requirement 1.16).
type Override int

const (
	// OverrideNone leaves the device to the policy.
	OverrideNone Override = iota
	// OverrideTrusted treats the device as one that its owner has confirmed.
	OverrideTrusted
	// OverrideDistrusted sends nothing to the device and shows nothing that it sends.
	OverrideDistrusted
)

// String returns the name used in logs.
func (o Override) String() string {
	switch o {
	case OverrideNone:
		return "none"
	case OverrideTrusted:
		return "trusted"
	case OverrideDistrusted:
		return "distrusted"
	default:
		return "invalid"
	}
}

// Fault is the reason why a listed device cannot take part in encryption. The zero value is
// no fault.
type Fault int

const (
	// FaultNone is a device without a fault.
	FaultNone Fault = iota
	// FaultNoKeys is a device without identity keys: a non-cryptographic device, which
	// does not exist for us (requirement 1.19), or an impersonated one (MSC4350).
	FaultNoKeys
	// FaultNoAlgorithm is a device that does not support Olm and Megolm (requirement 2.5).
	FaultNoAlgorithm
	// FaultSharedKey is a device whose Curve25519 or Ed25519 key another device of the same
	// user has too: nobody can tell which of them holds it (attack A16).
	FaultSharedKey
	// FaultIdentityKey is a device whose ID or signing key is one of its owner's
	// cross-signing keys (requirements 1.25, 1.26; attack A10).
	FaultIdentityKey
)

// doNotEncrypt is the member of device keys by which a device says that it wants no room
// keys (MSC4261, unstable).
const doNotEncrypt = "org.matrix.msc4261.do_not_encrypt"

// Device is one device of a user, as its owner published it.
type Device struct {
	UserID     id.UserID
	DeviceID   id.DeviceID
	Ed25519    id.Ed25519
	Curve25519 id.Curve25519
	Algorithms []id.Algorithm
	// Raw is the device keys object as it came, whose self-signature was checked.
	Raw json.RawMessage
	// Signed reports whether the owner's current self-signing key has signed the device.
	Signed bool
	// Dehydrated reports whether the device calls itself dehydrated (MSC3814), inside the
	// signed object.
	Dehydrated bool
	// DoNotEncrypt reports whether the device asks, inside the signed object, for no room keys
	// and no m.room_key.withheld (MSC4261).
	DoNotEncrypt bool
	Override     Override
	Made         Made
	Fault        Fault
}

// Made is when an exception was made, and with which device of the account. It decides nothing.
type Made struct {
	At time.Time
	By id.DeviceID
}

// Usable reports whether the device can take part in encryption, not whether it may.
func (d *Device) Usable() bool { return d.Fault == FaultNone && d.Ed25519 != "" && d.Curve25519 != "" }

// ParseDevice reads the device keys object of one device and checks that it names that
// user and device and is signed by its own key (requirements 2.3, 2.4, 2.8, 2.9).
// Whether its owner has signed it is not looked at: see SignedBy. A device without
// identity keys is not an error; it has FaultNoKeys.
//
// Errors are ErrMalformed, ErrBadKey and ErrSignature.
func ParseDevice(raw json.RawMessage, user id.UserID, device id.DeviceID) (Device, error) {
	d, _, err := parseDevice(raw, user, device)
	return d, err
}

// parseDevice does what ParseDevice does, and returns the signatures for further checks.
func parseDevice(raw json.RawMessage, user id.UserID, device id.DeviceID) (Device, signed, error) {
	d, obj, err := readDevice(raw, user, device)
	if err != nil {
		return Device{}, signed{}, fmt.Errorf("device keys: %w", err)
	}
	if d.Ed25519 == "" {
		d.Curve25519 = ""
		return d, signed{}, nil
	}
	s, err := signedBy(obj, user)
	if err != nil {
		return Device{}, signed{}, fmt.Errorf("device keys: %w", err)
	}
	if !s.byDevice(device, d.Ed25519) {
		return Device{}, signed{}, fmt.Errorf("device keys: %w: its own", ErrSignature)
	}
	return d, s, nil
}

// readDevice reads a device keys object without looking at signatures.
func readDevice(raw json.RawMessage, user id.UserID, device id.DeviceID) (Device, strictjson.Object, error) {
	obj, err := parseObject(raw)
	if err != nil {
		return Device{}, nil, err
	}
	d := Device{UserID: user, DeviceID: device, Raw: bytes.Clone(raw)}
	if err := belongsTo(obj, user, device); err != nil {
		return Device{}, nil, err
	}
	algorithms, err := list(obj, "algorithms")
	if err != nil {
		return Device{}, nil, err
	}
	for _, a := range algorithms {
		d.Algorithms = append(d.Algorithms, id.Algorithm(a))
	}
	keys, err := texts(obj, "keys")
	if err != nil {
		return Device{}, nil, fmt.Errorf("keys: %w", err)
	}
	if s, ok := keys["ed25519:"+device.String()]; ok {
		if d.Ed25519, err = parseEd25519(s); err != nil {
			return Device{}, nil, err
		}
	}
	if s, ok := keys["curve25519:"+device.String()]; ok {
		if d.Curve25519, err = parseCurve25519(s); err != nil {
			return Device{}, nil, err
		}
	}
	if v := jsontext.Value(obj.Get("dehydrated")); v != nil {
		if v.Kind() != 't' && v.Kind() != 'f' {
			return Device{}, nil, fmt.Errorf("%w: dehydrated is not a boolean", ErrMalformed)
		}
		d.Dehydrated = v.Kind() == 't'
	}
	// MSC4261 is unstable: anything but true means nothing, whatever its type.
	if v := jsontext.Value(obj.Get(doNotEncrypt)); v != nil {
		d.DoNotEncrypt = v.Kind() == 't'
	}
	d.Fault = d.ownFault()
	return d, obj, nil
}

// belongsTo checks the user ID and device ID inside the object.
func belongsTo(o strictjson.Object, user id.UserID, device id.DeviceID) error {
	u, err := text(o, "user_id")
	if err != nil {
		return err
	}
	dev, err := text(o, "device_id")
	if err != nil {
		return err
	}
	if u != user.String() || dev != device.String() || dev == "" {
		return fmt.Errorf("%w: it belongs to another user or device", ErrMalformed)
	}
	return nil
}

// ownFault returns the fault that can be seen without the owner's other devices.
func (d *Device) ownFault() Fault {
	switch {
	case d.Ed25519 == "" || d.Curve25519 == "":
		return FaultNoKeys
	case !slices.Contains(d.Algorithms, id.AlgorithmOlmV1) || !slices.Contains(d.Algorithms, id.AlgorithmMegolmV1):
		return FaultNoAlgorithm
	default:
		return FaultNone
	}
}

// SignedBy reports whether a self-signing key of the device's owner has signed it.
// The caller must know that the key is the owner's: see ParseIdentity.
func (d *Device) SignedBy(self id.Ed25519) bool {
	if d.Ed25519 == "" {
		return false
	}
	obj, err := parseObject(d.Raw)
	if err != nil {
		return false
	}
	s, err := signedBy(obj, d.UserID)
	return err == nil && d.signedBy(s, self)
}

// signedBy is like SignedBy, for signatures that were parsed already.
func (d *Device) signedBy(s signed, self id.Ed25519) bool {
	return self != "" && self != d.Ed25519 && !isKeyNamed(d.DeviceID, self) && s.byIdentity(self)
}

// isKeyNamed reports whether a device ID spells a key, with or without padding, so
// that "ed25519:<device ID>" and "ed25519:<key>" would be one name.
func isKeyNamed(device id.DeviceID, key id.Ed25519) bool {
	return key != "" && (device.String() == key.String() || device.String() == key.String()+"=")
}

// markFaults sets the faults of a user's devices that show when they are compared with each
// other and with the identity.
func markFaults(devices []Device, identity []id.Ed25519) {
	curve := make(map[id.Curve25519]int, len(devices))
	signing := make(map[id.Ed25519]int, len(devices))
	for i := range devices {
		curve[devices[i].Curve25519]++
		signing[devices[i].Ed25519]++
	}
	for i := range devices {
		d := &devices[i]
		d.Fault = d.ownFault()
		if d.Fault == FaultNoKeys {
			continue
		}
		if curve[d.Curve25519] > 1 || signing[d.Ed25519] > 1 {
			d.Fault = FaultSharedKey
		}
		for _, key := range identity {
			if key != "" && (d.Ed25519 == key || isKeyNamed(d.DeviceID, key)) {
				d.Fault = FaultIdentityKey
			}
		}
	}
}
