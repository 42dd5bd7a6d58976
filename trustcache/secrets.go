package trustcache

// MayHoldSecrets decides whether a device of the account's own user may get secrets and
// room keys that it requests, and whether those that it sends are accepted (requirements
// 11.4, 15.2, 15.4). It is stricter than [Share]: the identity must be verified, because a
// homeserver could make one up together with a device (attacks A13, A14); no policy and no
// override loosens it, since those are about messages (requirement 1.14). A dehydrated
// device requests and answers nothing (requirement 24.2), and one that wants nothing
// encrypted for it gets nothing (MSC4261).
//
// It does not look at how old the knowledge is. Who sends a secret decides with fresh
// knowledge, and again from memory right before it is encrypted.
func MayHoldSecrets(own *User, d *Device) bool {
	switch {
	case !own.Known() || !own.Own || !own.Verified || own.State() != PinVerified:
		return false
	case d == nil || d.UserID != own.UserID || !d.Usable():
		return false
	case d.Dehydrated || d.DoNotEncrypt || d.Override == OverrideDistrusted:
		return false
	default:
		return d.Signed
	}
}
