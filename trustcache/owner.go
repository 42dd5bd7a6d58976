package trustcache

import (
	"bytes"
	"encoding/json"

	"maunium.net/go/mautrix/id"
)

// Owner is what is known of the sender of a room key or another Olm message: recorded
// when it arrived, from the Olm channel alone, never from the event that is decrypted
// with it and never from what a forward, a backup or an import claims (design §5), unless
// it is Attested.
// It may be upgraded by what becomes known later, never downgraded.
type Owner struct {
	UserID     id.UserID     `json:"user_id,omitempty"`
	DeviceID   id.DeviceID   `json:"device_id,omitempty"`
	Curve25519 id.Curve25519 `json:"curve25519,omitempty"`
	Ed25519    id.Ed25519    `json:"ed25519,omitempty"`
	// DeviceKeys are the device keys carried in the message (MSC4147) or known from the
	// tracker, as the owner signed them.
	DeviceKeys json.RawMessage `json:"device_keys,omitempty"`
	// Signed says that the owner's identity at some time since had signed the device.
	Signed bool `json:"signed,omitempty"`
	// Master is the master key of that identity, and Accepted says that the account had
	// accepted it, at that time or later.
	Master   id.Ed25519 `json:"master,omitempty"`
	Accepted bool       `json:"accepted,omitempty"`
	// Attested says that this was recorded when the key arrived, by a device of the
	// account, and came back with the key from a backup that only the account's own devices
	// can have written (MSC4048, requirement 16.9).
	Attested bool `json:"attested,omitempty"`
}

// Known reports whether more than a key is known of the sending device.
func (o Owner) Known() bool { return o.UserID != "" && o.DeviceID != "" }

// Named gives an attested owner of whom only the keys are known the user whose device has
// them: MSC4048 lets other clients attest a key without saying whose it is. That device
// has signed both keys together with its user's ID, so that no other user can claim them.
func (o Owner) Named(u *User) (Owner, bool) {
	if !o.Attested || o.UserID != "" || !u.Known() {
		return o, false
	}
	device, _ := u.sender(o)
	if device == nil || !device.Usable() {
		return o, false
	}
	o.UserID, o.DeviceID, o.DeviceKeys = u.UserID, device.DeviceID, device.Raw
	return o, true
}

// Upgrade adds what a snapshot of the owner's user says, and reports whether anything
// was added. Both the Curve25519 and the Ed25519 key must be the device's (requirement
// 6.8); a key that two devices claim proves nothing (attack A16).
func (o Owner) Upgrade(u *User) (Owner, bool) {
	if !u.Known() || o.UserID == "" || u.UserID != o.UserID || (o.Signed && o.Accepted) {
		return o, false
	}
	out, changed := o, false
	if !out.Signed {
		device, listed := u.sender(o)
		if listed && device == nil {
			return o, false
		}
		if device != nil && (out.DeviceID == "" || len(out.DeviceKeys) == 0) {
			out.DeviceID, out.DeviceKeys, changed = device.DeviceID, device.Raw, true
		}
		if (device != nil && device.Signed && device.Usable()) || out.carriesSignature(u, device) {
			out.Signed, out.Master, changed = true, u.Master, true
		}
	}
	if out.Signed && out.Master != u.Master {
		if device, _ := u.sender(o); device != nil && device.Signed && device.Usable() {
			out.Master, changed = u.Master, true
		}
	}
	if out.Signed && !out.Accepted && out.Master == u.Master && u.State().Accepted() {
		out.Accepted, changed = true, true
	}
	return out, changed
}

// Keep gives the owner with what an earlier record of the same device has proven: nothing
// of that is lost when the device sends its key again.
func (o Owner) Keep(was Owner) Owner {
	if !was.Signed || was.UserID != o.UserID || was.Curve25519 != o.Curve25519 || was.Ed25519 != o.Ed25519 {
		return o
	}
	accepted := o.Accepted && o.Master == was.Master
	o.Signed, o.Master, o.Accepted = true, was.Master, was.Accepted || accepted
	return o
}

// sender gives the listed device that an owner is. listed says that devices claim its
// Curve25519 key; with no device, that none of them is the owner or that two claim it.
func (u *User) sender(o Owner) (device *Device, listed bool) {
	for i := range u.Devices {
		d := &u.Devices[i]
		if d.Curve25519 != o.Curve25519 || o.Curve25519 == "" {
			continue
		}
		if listed || d.Ed25519 != o.Ed25519 || o.Ed25519 == "" {
			return nil, true
		}
		device, listed = d, true
	}
	return device, listed
}

// saysDehydrated reports whether the device keys carried in the message are those of a
// dehydrated device. Their signature was checked when they came.
func (o Owner) saysDehydrated() bool {
	if len(o.DeviceKeys) == 0 {
		return false
	}
	d, _, err := readDevice(o.DeviceKeys, o.UserID, o.DeviceID)
	return err == nil && d.Dehydrated
}

// carriesSignature reports whether the device keys carried in the message are the
// owner's and signed by the user's current identity: a device that is gone, or that the
// homeserver hides, can still be recognised by them (requirement 6.10, attack A15).
func (o Owner) carriesSignature(u *User, listed *Device) bool {
	if len(o.DeviceKeys) == 0 || u.SelfSigning == "" {
		return false
	}
	if listed != nil && bytes.Equal(o.DeviceKeys, listed.Raw) {
		return false // the tracker looked at these already
	}
	d, err := ParseDevice(o.DeviceKeys, o.UserID, o.DeviceID)
	if err != nil || !d.Usable() || d.Curve25519 != o.Curve25519 || d.Ed25519 != o.Ed25519 {
		return false
	}
	for _, key := range u.Keys() {
		if d.Ed25519 == key || isKeyNamed(d.DeviceID, key) {
			return false
		}
	}
	return d.SignedBy(u.SelfSigning)
}
