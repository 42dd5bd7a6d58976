package trustcache

import (
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"
)

// Clients with keys of their own decide by themselves for whom they encrypt. They cannot
// decide for devices that they are not shown, and what they encrypt for others does not
// leave: so the policy holds for them too.

// NativeOutcome is the decision whether a client with keys of its own is shown a device, and
// may give it something. The zero value hides it.
type NativeOutcome int

const (
	// NativeHide hides the device; it gets nothing.
	NativeHide NativeOutcome = iota
	// NativeShow leaves the device to the client.
	NativeShow
)

// NativeDecision is the decision about one device.
type NativeDecision struct {
	Outcome NativeOutcome
	Reason  ShareReason
	// Enforced is what ModeEnforce would have done; equal to Outcome unless Mode is ModeWarn.
	Enforced NativeOutcome
}

// Native decides whether something that is encrypted for a device, or a one-time key of it,
// may pass between a client with keys of its own and the homeserver. It is for the account's
// own devices too: secrets are sent between them. d is nil for a device that is not known.
//
// The user's identity need not be accepted: such a client shows changes by itself, see
// [NativeChanges].
func Native(u *User, d *Device, mode Mode) NativeDecision {
	strict := NativeDecision{Outcome: NativeHide}
	strict.Outcome, strict.Reason = native(u, d)
	strict.Enforced = strict.Outcome
	switch mode {
	case ModeEnforce:
		return strict
	case ModeWarn:
		if strict.Reason != ReasonDistrusted {
			strict.Outcome = NativeShow
		}
		return strict
	case ModeOff:
		return NativeDecision{Outcome: NativeShow, Reason: ReasonNotEnforced, Enforced: NativeShow}
	default:
		return NativeDecision{}
	}
}

func native(u *User, d *Device) (NativeOutcome, ShareReason) {
	switch {
	case !u.Known() || d == nil:
		return NativeHide, ReasonUnknown
	case d.UserID != u.UserID:
		return NativeHide, ReasonForeignDevice
	case !d.Usable():
		return NativeHide, ReasonFault
	case d.Override == OverrideDistrusted:
		return NativeHide, ReasonDistrusted
	case d.Signed && u.State() != PinNone:
		return NativeShow, ReasonSigned
	case d.Dehydrated: // requirement 24.2, whatever exceptions say
		return NativeHide, ReasonDehydrated
	case d.Override == OverrideTrusted:
		return NativeShow, ReasonTrusted
	default:
		return NativeHide, ReasonUnsigned
	}
}

// NativeGate decides whether a client with keys of its own may send something encrypted to
// users. Of the account's own user nothing is asked: that identity is its client's.
func NativeGate(users []*User, mode Mode, changes NativeChanges) GateDecision {
	out := GateDecision{Outcome: GateAllow, Enforced: GateAllow}
	if mode == ModeOff || changes == NativeChangesWarn {
		return out
	}
	for _, u := range users {
		if u.Known() && !u.Own && !u.State().Accepted() {
			out.Blocked = append(out.Blocked, BlockedUser{u.UserID, u.State(), false, u.Current})
		}
	}
	if len(out.Blocked) > 0 {
		out.Enforced = GateBlocked
	}
	if mode != ModeWarn {
		out.Outcome = out.Enforced
	}
	return out
}

// NativeView is what becomes of the devices in an answer to /keys/query of a client with keys
// of its own.
type NativeView struct {
	// Hidden are the devices that are taken out, Would those that ModeEnforce would take out.
	Hidden map[id.UserID][]id.DeviceID
	Would  map[id.UserID][]id.DeviceID
	// Shown is how many devices of others are left because of what is known of them.
	Shown int
	// Left are all devices of others that are left, if the view is to be narrowed further.
	Left   []NativeLeft
	narrow bool
}

// NativeLeft is a device that is left in an answer, as it is known with that answer. Device is
// nil for one of which nothing is known, which is left only where the policy is not enforced.
type NativeLeft struct {
	UserID   id.UserID
	DeviceID id.DeviceID
	User     *User
	Device   *Device
}

// Hide takes out one more of the devices that are left.
func (v *NativeView) Hide(one *NativeLeft) {
	put(&v.Hidden, one.UserID, append(v.Hidden[one.UserID], one.DeviceID))
}

func (v *NativeView) add(user id.UserID, device id.DeviceID, known *User, as *Device, d NativeDecision) {
	if v.narrow && d.Outcome == NativeShow {
		v.Left = append(v.Left, NativeLeft{user, device, known, as})
	}
	switch {
	case d.Outcome != NativeShow:
		put(&v.Hidden, user, append(v.Hidden[user], device))
	case d.Enforced != NativeShow:
		put(&v.Would, user, append(v.Would[user], device))
	default:
		v.Shown++
	}
}

// look decides about the devices of one user in an answer: by the chain of that very answer,
// not by what an earlier one said. known is what is known of the user with the answer.
// Devices of the own user are always shown, since they must be confirmed somehow.
func (v *NativeView) look(known *User, up *update, r *QueryResult, mode Mode) {
	user := known.UserID
	chain := !up.refusedIdentity && !absent(r.MasterKeys[user]) && !absent(r.SelfSigningKeys[user])
	for _, device := range slices.Sorted(maps.Keys(r.DeviceKeys[user])) {
		if known.Own {
			continue
		}
		d := known.Device(device)
		if d != nil && string(d.Raw) != string(r.DeviceKeys[user][device]) {
			d = nil // what is known is not what the client is about to see
		}
		if d != nil && !chain {
			without := *d
			without.Signed = false
			d = &without
		}
		v.add(user, device, known, d, Native(known, d, mode))
	}
}
