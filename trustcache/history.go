package trustcache

// MayGetHistory decides whether a device may get the keys of a room's history, which are those
// of many messages at once (requirement 17.5). It is stricter than [Share]: only a signature
// of the owner's accepted identity counts. No policy and no exception loosens it, since those
// are for what went on before them, and the specification forbids it outright.
//
// It does not look at how old the knowledge is. Who shares decides with fresh knowledge, and
// again from memory right before something is encrypted.
func MayGetHistory(u *User, d *Device) bool {
	switch {
	case !u.Known() || !hasAcceptedIdentity(u):
		return false
	case d == nil || d.UserID != u.UserID || !d.Usable():
		return false
	case d.DoNotEncrypt || d.Override == OverrideDistrusted:
		return false
	default:
		return d.Signed
	}
}

// MayGiveHistory decides whether a bundle of keys is taken from the device that sent it
// (requirement 17.7), as [MayGetHistory] does for the other direction. Dehydrated devices send
// nothing (requirement 24.2).
func MayGiveHistory(from Owner, u *User) bool {
	if !u.Known() || u.UserID != from.UserID || !hasAcceptedIdentity(u) {
		return false
	}
	from, _ = from.Upgrade(u)
	return from.Signed && ToDevice("m.room_key_bundle", from, u, ModeEnforce) == ToDeviceProcess
}

// hasAcceptedIdentity reports whether a user has an identity, and the account has accepted it.
func hasAcceptedIdentity(u *User) bool { return u.State() != PinNone && u.State().Accepted() }
