package orgrules

import (
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// trusted returns how far a device is trusted that something would be encrypted for.
func trusted(u *trustcache.User, d *trustcache.Device) rules.Device {
	switch {
	case !u.Known() || d == nil || d.UserID != u.UserID:
		return rules.DeviceUnknown
	case d.Signed && d.Usable() && accepted(u):
		return confirmed(u)
	case d.Override == trustcache.OverrideTrusted:
		return rules.DeviceException
	default:
		return rules.DeviceUnconfirmed
	}
}

// sentBy returns how far the device is trusted that a message came from. Without proof that its
// sender's device made the key it is none of the sender's.
func sentBy(in *trustcache.JudgeInput) rules.Device {
	o, _ := in.Owner.Upgrade(in.OwnerUser)
	proven := in.Source == store.SourceDirect || in.Source == store.SourceBackup && o.Attested
	if !proven || o.UserID == "" || o.UserID != in.Sender {
		return rules.DeviceUnproven
	}
	u := in.OwnerUser
	switch {
	case o.UserID == in.Own && in.OwnKey != "" && o.Curve25519 == in.OwnKey:
		return rules.DeviceVerified // the device that reads sent it
	case !u.Known() || u.UserID != o.UserID:
		if o.Signed && o.Accepted {
			return rules.DeviceConfirmed
		}
		return rules.DeviceUnconfirmed
	case o.Signed && o.Accepted && accepted(u):
		if o.Master != u.Current {
			return rules.DeviceConfirmed // by an earlier identity, of which it is not known whether it was verified
		}
		return confirmed(u)
	}
	if d := u.DeviceByCurve25519(o.Curve25519); d != nil && d.Ed25519 == o.Ed25519 && d.Override == trustcache.OverrideTrusted {
		return rules.DeviceException
	}
	return rules.DeviceUnconfirmed
}

// accepted reports whether the user has an identity, and no change of it waits.
func accepted(u *trustcache.User) bool {
	return u.State() == trustcache.PinPinned || u.State() == trustcache.PinVerified
}

func confirmed(u *trustcache.User) rules.Device {
	if u.State() == trustcache.PinVerified {
		return rules.DeviceVerified
	}
	return rules.DeviceConfirmed
}
