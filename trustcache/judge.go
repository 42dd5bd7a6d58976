package trustcache

import (
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// Deliver is the form in which an event reaches the client. The zero value withholds it.
type Deliver int

const (
	// DeliverWithheld is a placeholder with the reason, without the text.
	DeliverWithheld Deliver = iota
	// DeliverClear is the clear event.
	DeliverClear
	// DeliverAsCame is the event as the homeserver sent it.
	DeliverAsCame
)

// JudgeInput is a decrypted room event.
type JudgeInput struct {
	// Sender is the sender of the event.
	Sender id.UserID
	// Own is the account's user, OwnKey the Curve25519 key of the device that reads.
	Own    id.UserID
	OwnKey id.Curve25519
	// Source is the way the room key came; Owner is its sender if it came directly.
	Source store.Source
	Owner  Owner
	// OwnerUser is the owner's user; nil when nothing is known.
	OwnerUser *User
	// Forwarder is who sent us the key when it did not come from its owner.
	Forwarder id.UserID
	Policy    Policy
}

// Verdict is the decision about one event: how it is delivered, and with which shield.
type Verdict struct {
	Deliver Deliver
	Color   Color
	Code    Code
	// WithheldCode is the code that the sender sent, for CodeWithheld.
	WithheldCode event.RoomKeyWithheldCode
	Message      string
	// UserID and DeviceID are the room key's owner, or who sent it to us.
	UserID   id.UserID
	DeviceID id.DeviceID
	Source   store.Source
	// SharedBy is who gave the key in a bundle of the room's history (requirement 17.7).
	SharedBy id.UserID
	// Enforced is what ModeEnforce would have done; equal to Deliver unless the mode is ModeWarn.
	Enforced Deliver
}

// Denied returns the verdict on a message that would be shown, after a rule of the organisation
// denied it. The reason is the rule's, for people.
func (v Verdict) Denied(reason string) Verdict {
	v.Deliver, v.Enforced, v.Color, v.Code, v.WithheldCode = DeliverWithheld, DeliverWithheld, ColorRed, CodeDeniedByRule, ""
	v.Message = CodeDeniedByRule.message()
	if reason != "" {
		v.Message = reason
	}
	return v
}

// Above reports whether verdict v trusts the event more than o does. When several devices
// claim a room key, the verdict of the claim that is trusted most counts.
func (v Verdict) Above(o Verdict) bool {
	if (v.Deliver == DeliverClear) != (o.Deliver == DeliverClear) {
		return v.Deliver == DeliverClear
	}
	if a, b := v.Color.severity(), o.Color.severity(); a != b {
		return a < b
	}
	return v.Enforced == DeliverClear && o.Enforced != DeliverClear
}

// severity returns the order of colors, from none to red.
func (c Color) severity() int {
	switch c {
	case ColorNone:
		return 0
	case ColorGrey:
		return 1
	case ColorRed:
		return 2
	default:
		return 3
	}
}

// Judge decides about a decrypted event, as the reference does with
// TrustRequirement::CrossSigned, with these deviations: keys without proof of their sender
// have sources of their own and are shown grey; a user whose identity changed, verified
// before or not, is shown red; an override can trust a device; a sender who does not own
// the room key is refused in every mode, except for listed bridges.
//
// The owner is first upgraded by OwnerUser; a caller that keeps owners should store what
// [Owner.Upgrade] returns.
func Judge(in JudgeInput) Verdict {
	in.Owner, _ = in.Owner.Upgrade(in.OwnerUser)
	v := judge(in, true)
	v.Enforced = v.Deliver
	switch in.Policy.Receive {
	case ModeEnforce:
	case ModeWarn:
		enforced := v.Deliver
		v = judge(in, false)
		v.Enforced = enforced
	case ModeOff:
		v = judge(in, false)
		v.Enforced = v.Deliver
	default:
		return Verdict{Color: ColorRed}
	}
	return v
}

// JudgeInClear decides about a plain event in an encrypted room that should have been
// encrypted (requirement 8.11, attack A25).
func JudgeInClear(sender id.UserID, p Policy) Verdict {
	v := Verdict{Deliver: DeliverAsCame, Color: ColorRed, Code: CodeSentInClear, Message: CodeSentInClear.message(), UserID: sender}
	if p.InClear != InClearMark {
		v.Enforced = DeliverWithheld
		if p.Receive == ModeEnforce {
			v.Deliver = DeliverWithheld
		}
		if p.Receive == ModeOff {
			v.Enforced = DeliverAsCame
		}
		return v
	}
	v.Enforced = v.Deliver
	return v
}

// withheldHistory is the code of a key that somebody who shared a room's history may not pass on
// (requirement 17.5).
const withheldHistory event.RoomKeyWithheldCode = "m.history_not_shared"

// JudgeUndecrypted returns the verdict on an event that could not be decrypted. withheld is
// the code that the sender sent, for CodeWithheld; it proves nothing (requirement 10.7).
func JudgeUndecrypted(code Code, withheld event.RoomKeyWithheldCode) Verdict {
	v := Verdict{Deliver: DeliverAsCame, Enforced: DeliverAsCame, Color: ColorNone, Code: code, Message: code.message()}
	if code == CodeReplayed {
		v.Color = ColorRed
	}
	if code == CodeWithheld {
		v.WithheldCode = withheld
		if withheld == event.RoomKeyWithheldUnverified {
			v.Message = "The sender held this message back because this device is not verified by its owner."
		}
		if withheld == withheldHistory {
			v.Message = "This message was sent before you came into the room, and may not be shared with later members."
		}
	}
	return v
}

func judge(in JudgeInput, enforce bool) Verdict {
	switch in.Source {
	case store.SourceDirect:
		return judgeDirect(in, enforce)
	case store.SourceBackup:
		if in.Owner.Attested && in.Owner.UserID != "" {
			return judgeDirect(in, enforce)
		}
		return judgeUnproven(in, enforce)
	case store.SourceImport, store.SourceBundle, store.SourceForwarded:
		return judgeUnproven(in, enforce)
	default:
		return withheld(in, CodeUnknownDevice)
	}
}

// judgeUnproven decides about events whose key came without proof of its sender
// (requirements 0.7, 0.11, 16.8).
func judgeUnproven(in JudgeInput, enforce bool) Verdict {
	v := Verdict{
		Deliver: DeliverClear, Color: ColorGrey, Source: in.Source, UserID: in.Forwarder,
		Code: CodeAuthenticityNotGuaranteed, Message: CodeAuthenticityNotGuaranteed.message(),
	}
	if in.Policy.Unproven != UnprovenShow && enforce {
		v.Deliver = DeliverWithheld
	}
	if in.Source == store.SourceBundle && in.Forwarder != "" { // requirement 17.7
		v.SharedBy = in.Forwarder
		v.Message = in.Forwarder.String() + " shared this message since you were not in the room when it was sent."
	}
	return v
}

func judgeDirect(in JudgeInput, enforce bool) Verdict {
	o := in.Owner
	if in.Sender == "" || o.UserID == "" {
		return withheld(in, CodeUnknownDevice)
	}
	var device *Device
	if in.OwnerUser != nil && in.OwnerUser.UserID == o.UserID {
		device, _ = in.OwnerUser.sender(o)
	}
	override := in.OwnerUser.exceptionFor(o, device)
	switch {
	case o.UserID != in.Sender:
		return judgeMismatch(in, override)
	case o.UserID == in.Own && in.OwnKey != "" && o.Curve25519 == in.OwnKey:
		return shown(in, ColorNone, "") // this device's own message
	case override == OverrideDistrusted:
		return withheld(in, CodeUnsignedDevice)
	case o.Signed:
		return judgeIdentity(in)
	}
	code := CodeUnsignedDevice
	if device == nil && !o.Known() {
		code = CodeUnknownDevice
	}
	if enforce && override != OverrideTrusted {
		return withheld(in, code)
	}
	return shown(in, ColorRed, code)
}

// judgeMismatch decides about events that were not encrypted by a device of their sender
// (requirements 1.20, 1.21; attacks A1, A2, N1). Our own devices are never a bridge.
func judgeMismatch(in JudgeInput, override Override) Verdict {
	o := in.Owner
	trusted := (o.Signed && override != OverrideDistrusted) || override == OverrideTrusted
	if in.Policy.Bridges[o.UserID] && o.UserID != in.Own && trusted {
		return shown(in, ColorRed, CodeMismatchedSender)
	}
	return withheld(in, CodeMismatchedSender)
}

// judgeIdentity decides about events of devices that their owner has signed.
func judgeIdentity(in JudgeInput) Verdict {
	o, u := in.Owner, in.OwnerUser
	if !u.Known() || u.UserID != o.UserID {
		if o.Accepted {
			return shown(in, ColorNone, "")
		}
		return shown(in, ColorRed, CodeUnverifiedIdentity)
	}
	switch u.State() {
	case PinVerificationLost:
		return shown(in, ColorRed, CodeVerificationViolation)
	case PinPinned, PinVerified:
		if o.Accepted {
			return shown(in, ColorNone, "")
		}
		return shown(in, ColorRed, CodeUnverifiedIdentity) // signed by an identity that never was accepted
	case PinChanged, PinNone:
		return shown(in, ColorRed, CodeUnverifiedIdentity)
	default:
		return withheld(in, CodeUnverifiedIdentity)
	}
}

func shown(in JudgeInput, color Color, code Code) Verdict {
	return verdict(in, DeliverClear, color, code)
}

func withheld(in JudgeInput, code Code) Verdict {
	return verdict(in, DeliverWithheld, ColorRed, code)
}

func verdict(in JudgeInput, deliver Deliver, color Color, code Code) Verdict {
	return Verdict{
		Deliver: deliver, Color: color, Code: code, Message: code.message(),
		UserID: in.Owner.UserID, DeviceID: in.Owner.DeviceID, Source: in.Source,
	}
}
