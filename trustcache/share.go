package trustcache

import (
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// ShareOutcome is the decision whether a device gets a room key, a secret, or anything else
// that is encrypted for it. The zero value refuses.
type ShareOutcome int

const (
	// ShareRefuse sends the device nothing, not even m.room_key.withheld.
	ShareRefuse ShareOutcome = iota
	// ShareWithhold sends the device m.room_key.withheld.
	ShareWithhold
	// ShareGive sends it the key.
	ShareGive
)

// ShareReason is the reason of a [ShareDecision], which the table in the tests checks.
type ShareReason string

// The reasons of a [ShareDecision].
const (
	ReasonUnknown       ShareReason = "" // nothing is known of the owner
	ReasonSigned        ShareReason = "signed"
	ReasonUnsigned      ShareReason = "unsigned"
	ReasonTrusted       ShareReason = "override_trusted"
	ReasonDistrusted    ShareReason = "override_distrusted"
	ReasonSelf          ShareReason = "sending_device"
	ReasonFault         ShareReason = "unusable"
	ReasonIdentity      ShareReason = "identity_changed"
	ReasonDehydrated    ShareReason = "dehydrated_unsigned"
	ReasonNotEnforced   ShareReason = "not_enforced"
	ReasonForeignDevice ShareReason = "not_a_device_of_the_user"
	ReasonDoNotEncrypt  ShareReason = "do_not_encrypt"
)

// ShareInput is one device of one user that something is to be encrypted for.
type ShareInput struct {
	User   *User
	Device *Device
	// SenderUser and SenderDevice are the device that sends; it needs nothing for itself.
	SenderUser   id.UserID
	SenderDevice id.DeviceID
	Mode         Mode // Policy.Send
}

// ShareDecision is the decision about one device.
type ShareDecision struct {
	Outcome ShareOutcome
	// Code is the code of m.room_key.withheld when Outcome is ShareWithhold.
	Code   event.RoomKeyWithheldCode
	Reason ShareReason
	// Enforced is what ModeEnforce would have done; equal to Outcome unless Mode is ModeWarn.
	Enforced ShareOutcome
}

// Share decides for one device as the reference's IdentityBasedStrategy does, with these
// deviations: an override that distrusts always withholds, one that trusts overrules a
// missing signature (requirement 1.16), and a user whose identity change was not
// acknowledged gets nothing, even if the caller forgot [Gate].
func Share(in ShareInput) ShareDecision {
	strict := share(in, true)
	switch in.Mode {
	case ModeWarn:
		loose := share(in, false)
		loose.Enforced = strict.Outcome
		return loose
	case ModeOff:
		loose := share(in, false)
		loose.Enforced = loose.Outcome
		return loose
	case ModeEnforce:
		strict.Enforced = strict.Outcome
		return strict
	default:
		return ShareDecision{}
	}
}

func share(in ShareInput, enforce bool) ShareDecision {
	u, d := in.User, in.Device
	if !u.Known() || d == nil {
		return ShareDecision{}
	}
	signed := d.Signed && u.State() != PinNone // without an identity nobody can have signed it
	switch {
	case d.UserID != u.UserID:
		return ShareDecision{Reason: ReasonForeignDevice}
	case u.UserID == in.SenderUser && d.DeviceID == in.SenderDevice:
		return ShareDecision{Reason: ReasonSelf}
	case !d.Usable():
		return ShareDecision{Reason: ReasonFault}
	case d.DoNotEncrypt: // the device's own wish comes before policy and exceptions (MSC4261)
		return ShareDecision{Reason: ReasonDoNotEncrypt}
	case d.Override == OverrideDistrusted:
		return ShareDecision{Outcome: ShareWithhold, Code: event.RoomKeyWithheldBlacklisted, Reason: ReasonDistrusted}
	case d.Dehydrated && !signed: // requirement 24.2, under every policy
		return ShareDecision{Outcome: ShareWithhold, Code: event.RoomKeyWithheldUnverified, Reason: ReasonDehydrated}
	case enforce && !u.State().Accepted():
		return ShareDecision{Reason: ReasonIdentity}
	case signed:
		return ShareDecision{Outcome: ShareGive, Reason: ReasonSigned}
	case d.Override == OverrideTrusted:
		return ShareDecision{Outcome: ShareGive, Reason: ReasonTrusted}
	case !enforce:
		return ShareDecision{Outcome: ShareGive, Reason: ReasonNotEnforced}
	default:
		return ShareDecision{Outcome: ShareWithhold, Code: event.RoomKeyWithheldUnverified, Reason: ReasonUnsigned}
	}
}

// GateOutcome is the decision whether an encrypted send may go on. The zero value refuses
// because nothing is known.
type GateOutcome int

const (
	// GateCannotTell refuses: the own user's identity is not known.
	GateCannotTell GateOutcome = iota
	// GateBlocked refuses: somebody's identity change waits for an acknowledgement.
	GateBlocked
	// GateAllow lets the send go on, to those devices for which Share returns ShareGive.
	GateAllow
)

// BlockedUser is a user whose identity change blocks a send.
type BlockedUser struct {
	UserID id.UserID
	State  PinState // PinChanged or PinVerificationLost
	Own    bool
	// Master is the current master key, which an acknowledgement must name.
	Master id.Ed25519
}

// GateDecision is the decision whether a send to some users may go on.
type GateDecision struct {
	Outcome GateOutcome
	Blocked []BlockedUser // in the order of the input; also what ModeWarn would have blocked
	// Unreached are users of whom nothing is known. Their devices get nothing and the send
	// goes on: unknown is neither compliant nor unsigned (requirement 0.12). A later Lookup
	// asks about them again.
	Unreached []id.UserID
	// Enforced is what ModeEnforce would have done.
	Enforced GateOutcome
}

// Gate decides whether an encrypted event may be sent to users, of whom the own user must
// be one (requirements 1.12, 1.24; 0.4: any unacknowledged change blocks). Knowledge that
// is not fresh counts too.
func Gate(users []*User, mode Mode) GateDecision {
	var out GateDecision
	own := false
	for _, u := range users {
		switch {
		case u == nil:
			return GateDecision{}
		case !u.Known():
			if !u.Own {
				out.Unreached = append(out.Unreached, u.UserID)
			}
			continue
		case !u.State().Accepted():
			out.Blocked = append(out.Blocked, BlockedUser{u.UserID, u.State(), u.Own, u.Current})
		}
		own = own || u.Own
	}
	if !own {
		return GateDecision{Unreached: out.Unreached}
	}
	out.Outcome, out.Enforced = GateAllow, GateAllow
	if len(out.Blocked) > 0 {
		out.Enforced = GateBlocked
	}
	switch mode {
	case ModeWarn:
	case ModeOff:
		out.Enforced, out.Blocked = GateAllow, nil
	case ModeEnforce:
		out.Outcome = out.Enforced
	default:
		return GateDecision{}
	}
	return out
}
