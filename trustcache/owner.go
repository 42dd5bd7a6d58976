package trustcache

import (
	"bytes"
	"encoding/json"

	"maunium.net/go/mautrix/id"
)

// Owner is the sender of a room key or of another Olm message. It is recorded when the
// message arrives, from the Olm channel alone, never from the event that is decrypted with
// the key and, unless it is Attested, never from what a forward, a backup or an import
// claims. It may be upgraded by what becomes known later, never downgraded.
type Owner struct {
	UserID     id.UserID     `json:"user_id,omitempty"`
	DeviceID   id.DeviceID   `json:"device_id,omitempty"`
	Curve25519 id.Curve25519 `json:"curve25519,omitempty"`
	Ed25519    id.Ed25519    `json:"ed25519,omitempty"`
	// DeviceKeys are the device keys carried in the message (MSC4147) or known from the
	// tracker, as the owner signed them.
	DeviceKeys json.RawMessage `json:"device_keys,omitempty"`
	// Signed reports whether the owner's identity has at some time signed the device.
	Signed bool `json:"signed,omitempty"`
	// Master is the master key of that identity, and Accepted reports whether the account had
	// accepted it, at that time or later.
	Master   id.Ed25519 `json:"master,omitempty"`
	Accepted bool       `json:"accepted,omitempty"`
	// Attested reports whether a device of the account recorded this when the key arrived, and
	// it came back with the key from a backup that only the account's own devices can have
	// written (MSC4048, requirement 16.9).
	Attested bool `json:"attested,omitempty"`
}

// Known reports whether the sending device is known, not only its keys.
func (o Owner) Known() bool { return o.UserID != "" && o.DeviceID != "" }

// Named returns the owner with the user and device of u that has its keys, for an attested
// owner without a name: MSC4048 lets other clients attest a key without saying whose it is.
// The device has signed both keys together with its user's ID, so that no other user can
// claim them.
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

// Upgrade adds what a snapshot of the owner's user proves, and reports whether it added
// anything. The device must have both the Curve25519 and the Ed25519 key (requirement 6.8);
// a key that two devices have proves nothing (attack A16).
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

// Keep returns the owner with what an earlier record of the same device has proven: nothing
// of that is lost when the device sends its key again.
func (o Owner) Keep(was Owner) Owner {
	if !was.Signed || was.UserID != o.UserID || was.Curve25519 != o.Curve25519 || was.Ed25519 != o.Ed25519 {
		return o
	}
	accepted := o.Accepted && o.Master == was.Master
	o.Signed, o.Master, o.Accepted = true, was.Master, was.Accepted || accepted
	return o
}

// sender returns the listed device that an owner is. listed reports whether any device has
// its Curve25519 key; without a device, none of them is the owner, or two have the key.
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

// saysDehydrated reports whether the device keys in the message are those of a dehydrated
// device. Their signature was checked when they came.
func (o Owner) saysDehydrated() bool {
	if len(o.DeviceKeys) == 0 {
		return false
	}
	d, _, err := readDevice(o.DeviceKeys, o.UserID, o.DeviceID)
	return err == nil && d.Dehydrated
}

// carriesSignature reports whether the device keys in the message are the owner's and
// signed by the user's current identity: so a device is recognised that is gone, or that
// the homeserver hides (requirement 6.10, attack A15).
func (o Owner) carriesSignature(u *User, listed *Device) bool {
	if len(o.DeviceKeys) == 0 || u.SelfSigning == "" {
		return false
	}
	if listed != nil && bytes.Equal(o.DeviceKeys, listed.Raw) {
		return false // the tracker has judged these already
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
