package trustcache

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// owned returns the owner of a key of bob's phone, recorded as signed by master or, if that
// is empty, as unsigned.
func owned(master id.Ed25519, accepted bool) Owner {
	d := plainDevice(false)
	return Owner{
		UserID: bob, DeviceID: d.DeviceID, Curve25519: d.Curve25519, Ed25519: d.Ed25519,
		Signed: master != "", Master: master, Accepted: accepted,
	}
}

func verdictCell(v Verdict) string {
	deliver := map[Deliver]string{DeliverWithheld: "withheld", DeliverClear: "clear", DeliverAsCame: "as came"}[v.Deliver]
	return fmt.Sprintf("%s %s %s", deliver, v.Color, v.Code)
}

// What becomes of a decrypted event whose key came directly: the reference's table
// (CrossSigned) with our deviations. Columns: enforce; warn and off.
func TestJudgeDirect(t *testing.T) {
	t.Parallel()
	const (
		fine     = "clear none "
		red      = "clear red "
		held     = "withheld red "
		identity = "UnverifiedIdentity"
		lost     = "VerificationViolation"
	)
	dev := func(signed bool, more ...func(*Device)) []Device { return []Device{plainDevice(signed, more...)} }
	user := func(state PinState, devices []Device) *User { return in(bob, state, devices...) }
	otherKey := func(d *Device) { d.Ed25519 = newSigner("y").public }
	bridge := map[id.UserID]bool{bob: true}
	unknown := Owner{UserID: bob, Curve25519: newCurve("x"), Ed25519: newSigner("x").public}
	own := func(u *User) *User { u.Own = true; return u }
	for _, tc := range []struct {
		name           string
		sender         id.UserID
		owner          Owner
		user           *User
		policy         Policy
		own            id.UserID
		ownKey         id.Curve25519
		enforce, loose string
	}{
		{name: "signed, pinned", owner: owned(keyA, true), user: user(PinPinned, dev(true)), enforce: fine, loose: fine},
		{name: "signed, verified", owner: owned(keyA, true), user: user(PinVerified, dev(true)), enforce: fine, loose: fine},
		{name: "signed, changed", owner: owned(keyB, false), user: user(PinChanged, dev(true)), enforce: red + identity, loose: red + identity},
		{name: "signed under the accepted identity, changed since", owner: owned(keyA, true), user: user(PinChanged, dev(false)), enforce: red + identity, loose: red + identity},
		{name: "signed, verification lost", owner: owned(keyB, false), user: user(PinVerificationLost, dev(true)), enforce: red + lost, loose: red + lost},
		{name: "signed under the verified identity, lost since", owner: owned(keyA, true), user: user(PinVerificationLost, dev(false)), enforce: red + lost, loose: red + lost},
		{name: "unsigned, pinned", owner: owned("", false), user: user(PinPinned, dev(false)), enforce: held + "UnsignedDevice", loose: red + "UnsignedDevice"},
		{name: "unsigned, verified", owner: owned("", false), user: user(PinVerified, dev(false)), enforce: held + "UnsignedDevice", loose: red + "UnsignedDevice"},
		{name: "unsigned, no identity", owner: owned("", false), user: user(PinNone, dev(false)), enforce: held + "UnsignedDevice", loose: red + "UnsignedDevice"},
		{name: "unsigned, changed", owner: owned("", false), user: user(PinChanged, dev(false)), enforce: held + "UnsignedDevice", loose: red + "UnsignedDevice"},
		{name: "signed since the key arrived", owner: owned("", false), user: user(PinPinned, dev(true)), enforce: fine, loose: fine},
		{name: "known since the key arrived", owner: unknown, user: user(PinPinned, dev(true)), enforce: fine, loose: fine},
		{name: "signed then, deleted since", owner: owned(keyA, true), user: user(PinPinned, nil), enforce: fine, loose: fine},
		{name: "signed then, lost its signature since", owner: owned(keyA, true), user: user(PinPinned, dev(false)), enforce: fine, loose: fine},
		{name: "signed by an identity that was never accepted", owner: owned(keyC, false), user: user(PinPinned, nil), enforce: red + identity, loose: red + identity},
		{name: "signed by an identity accepted since", owner: owned(keyA, false), user: user(PinPinned, nil), enforce: fine, loose: fine},
		{name: "signed, user unknown here", owner: owned(keyA, true), user: nil, enforce: fine, loose: fine},
		{name: "signed but not accepted, user unknown here", owner: owned(keyA, false), user: nil, enforce: red + identity, loose: red + identity},
		{name: "unknown device", owner: unknown, user: user(PinPinned, nil), enforce: held + "UnknownDevice", loose: red + "UnknownDevice"},
		{name: "unknown user", owner: unknown, user: nil, enforce: held + "UnknownDevice", loose: red + "UnknownDevice"},
		{name: "unreachable user", owner: unknown, user: &User{UserID: bob, Knowledge: KnowledgeUnreachable}, enforce: held + "UnknownDevice", loose: red + "UnknownDevice"},
		{name: "nobody", owner: Owner{}, user: nil, enforce: held + "UnknownDevice", loose: held + "UnknownDevice"},
		{name: "another device's signing key (6.8)", owner: unknown, user: user(PinPinned, dev(true, otherKey)), enforce: held + "UnknownDevice", loose: red + "UnknownDevice"},
		{name: "two devices with the key (A16)", owner: unknown, user: user(PinPinned, append(dev(true), plainDevice(true, func(d *Device) { d.DeviceID = "SECOND" }))), enforce: held + "UnknownDevice", loose: red + "UnknownDevice"},
		{name: "device at fault (A10)", owner: owned("", false), user: user(PinPinned, dev(true, faulty(FaultIdentityKey))), enforce: held + "UnsignedDevice", loose: red + "UnsignedDevice"},
		{name: "snapshot of another user", owner: owned(keyA, true), user: in(carol, PinVerificationLost), enforce: fine, loose: fine},

		{name: "unsigned, trusted by override", owner: owned("", false), user: user(PinPinned, dev(false, trusted)), enforce: red + "UnsignedDevice", loose: red + "UnsignedDevice"},
		{name: "signed, distrusted by override", owner: owned(keyA, true), user: user(PinPinned, dev(true, distrusted)), enforce: held + "UnsignedDevice", loose: held + "UnsignedDevice"},

		{name: "another sender (A1, A2)", sender: carol, owner: owned(keyA, true), user: user(PinVerified, dev(true)), enforce: held + "MismatchedSender", loose: held + "MismatchedSender"},
		{name: "no sender", sender: "-", owner: owned(keyA, true), user: user(PinVerified, dev(true)), enforce: held + "UnknownDevice", loose: held + "UnknownDevice"},
		{name: "bridge (1.20, 1.21)", sender: carol, owner: owned(keyA, true), user: user(PinPinned, dev(true)), policy: Policy{Bridges: bridge}, enforce: red + "MismatchedSender", loose: red + "MismatchedSender"},
		{name: "bridge, unsigned", sender: carol, owner: owned("", false), user: user(PinPinned, dev(false)), policy: Policy{Bridges: bridge}, enforce: held + "MismatchedSender", loose: held + "MismatchedSender"},
		{name: "bridge, trusted by override", sender: carol, owner: owned("", false), user: user(PinPinned, dev(false, trusted)), policy: Policy{Bridges: bridge}, enforce: red + "MismatchedSender", loose: red + "MismatchedSender"},
		{name: "bridge, distrusted by override", sender: carol, owner: owned(keyA, true), user: user(PinPinned, dev(true, distrusted)), policy: Policy{Bridges: bridge}, enforce: held + "MismatchedSender", loose: held + "MismatchedSender"},
		{name: "bridge speaking for itself", owner: owned(keyA, true), user: user(PinPinned, dev(true)), policy: Policy{Bridges: bridge}, enforce: fine, loose: fine},
		{name: "another sender in our name's session (N1)", sender: carol, own: bob, ownKey: newCurve("x"), owner: owned(keyA, true), user: own(user(PinVerified, dev(true))), policy: Policy{Bridges: bridge}, enforce: held + "MismatchedSender", loose: held + "MismatchedSender"},

		{name: "this device, not signed", own: bob, ownKey: newCurve("x"), owner: owned("", false), user: own(user(PinNone, dev(false))), enforce: fine, loose: fine},
		{name: "another own device, not signed", own: bob, ownKey: newCurve("z"), owner: owned("", false), user: own(user(PinVerified, dev(false))), enforce: held + "UnsignedDevice", loose: red + "UnsignedDevice"},
		{name: "another own device, signed", own: bob, ownKey: newCurve("z"), owner: owned(keyA, true), user: own(user(PinVerified, dev(true))), enforce: fine, loose: fine},
		{name: "another own device, own identity changed", own: bob, ownKey: newCurve("z"), owner: owned(keyB, false), user: own(user(PinVerificationLost, dev(true))), enforce: red + lost, loose: red + lost},
	} {
		switch tc.sender {
		case "":
			tc.sender = bob
		case "-":
			tc.sender = ""
		}
		if tc.own == "" {
			tc.own = alice
		}
		ask := func(m Mode) Verdict {
			p := tc.policy
			p.Receive = m
			return Judge(JudgeInput{
				Sender: tc.sender, Own: tc.own, OwnKey: tc.ownKey, Source: store.SourceDirect,
				Owner: tc.owner, OwnerUser: tc.user, Policy: p,
			})
		}
		enforced := ask(ModeEnforce)
		if got := verdictCell(enforced); got != tc.enforce || enforced.Enforced != enforced.Deliver {
			t.Errorf("%s, enforce: got %q, want %q", tc.name, got, tc.enforce)
		}
		if warn := ask(ModeWarn); verdictCell(warn) != tc.loose || warn.Enforced != enforced.Deliver {
			t.Errorf("%s, warn: got %q, want %q; enforced %v", tc.name, verdictCell(warn), tc.loose, warn.Enforced)
		}
		if off := ask(ModeOff); verdictCell(off) != tc.loose || off.Enforced != off.Deliver {
			t.Errorf("%s, off: got %q, want %q", tc.name, verdictCell(off), tc.loose)
		}
		if got := ask(Mode(9)); got.Deliver != DeliverWithheld {
			t.Errorf("%s, unknown mode: got %q", tc.name, verdictCell(got))
		}
	}
}

// Requirements 0.7 and 0.11: keys without proof of their sender are grey, name their
// source, and borrow nothing from an owner that somebody claims (attack A14, N2).
func TestJudgeUnproven(t *testing.T) {
	t.Parallel()
	const grey = "clear grey AuthenticityNotGuaranteed"
	for _, source := range []store.Source{store.SourceBackup, store.SourceImport, store.SourceBundle, store.SourceForwarded} {
		in := JudgeInput{
			Sender: bob, Own: alice, Source: source, Owner: owned(keyA, true), OwnerUser: in(bob, PinVerified, plainDevice(true)), Forwarder: carol,
		}
		got := Judge(in)
		if verdictCell(got) != grey || got.Source != source || got.UserID != carol || got.DeviceID != "" {
			t.Errorf("%s: got %q, %+v", source, verdictCell(got), got)
		}
		if source == store.SourceBundle && got.Message != "@carol:elsewhere.example shared this message since you were not in the room when it was sent." {
			t.Errorf("a bundle does not say who shared it (17.7): %s", got.Message)
		}
		in.Policy.Unproven = UnprovenWithhold
		if got := verdictCell(Judge(in)); got != "withheld grey AuthenticityNotGuaranteed" {
			t.Errorf("%s, withheld by policy: got %q", source, got)
		}
		in.Policy.Receive = ModeWarn
		if got := Judge(in); verdictCell(got) != grey || got.Enforced != DeliverWithheld {
			t.Errorf("%s, warn: got %q", source, verdictCell(got))
		}
	}
	for _, source := range []store.Source{"", "legacy"} {
		if got := Judge(JudgeInput{Sender: bob, Source: source, Owner: owned(keyA, true)}); got.Deliver != DeliverWithheld {
			t.Errorf("source %q: got %q", source, verdictCell(got))
		}
	}
	if got := Judge(JudgeInput{}); got.Deliver != DeliverWithheld || got.Annotation().Decrypted {
		t.Errorf("nothing asked: got %q", verdictCell(got))
	}
	if a := (Verdict{}).Annotation(); a.Decrypted || a.Color != ColorRed {
		t.Errorf("no verdict: %+v", a)
	}
}

func TestJudgeInClear(t *testing.T) {
	t.Parallel()
	const marked, held = "as came red SentInClear", "withheld red SentInClear"
	for _, tc := range []struct {
		policy   Policy
		want     string
		enforced Deliver
	}{
		{Policy{}, marked, DeliverAsCame},
		{Policy{Receive: ModeOff}, marked, DeliverAsCame},
		{Policy{InClear: InClearWithhold}, held, DeliverWithheld},
		{Policy{InClear: InClearWithhold, Receive: ModeWarn}, marked, DeliverWithheld},
		{Policy{InClear: InClearWithhold, Receive: ModeOff}, marked, DeliverAsCame},
	} {
		if got := JudgeInClear(bob, tc.policy); verdictCell(got) != tc.want || got.Enforced != tc.enforced || got.UserID != bob {
			t.Errorf("%+v: got %q, enforced %v", tc.policy, verdictCell(got), got.Enforced)
		}
	}
}

func TestJudgeUndecrypted(t *testing.T) {
	t.Parallel()
	for code, color := range map[Code]Color{
		CodeMissingRoomKey: ColorNone, CodeWithheld: ColorNone, CodeUnknownMessageIndex: ColorNone,
		CodeMalformed: ColorNone, CodeReplayed: ColorRed,
	} {
		v := JudgeUndecrypted(code, event.RoomKeyWithheldUnverified)
		if v.Deliver != DeliverAsCame || v.Color != color || v.Code != code || v.Message == "" {
			t.Errorf("%s: %+v", code, v)
		}
		if (v.WithheldCode != "") != (code == CodeWithheld) {
			t.Errorf("%s: withheld code %q", code, v.WithheldCode)
		}
	}
}

// Names and codes that programs outside rely on.
func TestAnnotationGolden(t *testing.T) {
	t.Parallel()
	direct := func(owner Owner, u *User) JudgeInput {
		return JudgeInput{Sender: bob, Own: alice, Source: store.SourceDirect, Owner: owner, OwnerUser: u}
	}
	spoofed := direct(owned(keyA, true), in(bob, PinPinned))
	spoofed.Sender = carol
	for _, tc := range []struct {
		verdict Verdict
		want    string
	}{
		{Judge(direct(owned(keyA, true), in(bob, PinPinned))), `{"decrypted":true,"color":"none","user_id":"@bob:example.org","device_id":"PHONE","source":"direct"}`},
		{Judge(direct(owned(keyA, true), in(bob, PinChanged))), `{"decrypted":true,"color":"red","code":"UnverifiedIdentity","message":"The sender's digital identity was reset, and the change has not been acknowledged.","user_id":"@bob:example.org","device_id":"PHONE","source":"direct"}`},
		{Judge(direct(owned(keyA, true), in(bob, PinVerificationLost))), `{"decrypted":true,"color":"red","code":"VerificationViolation","message":"Encrypted by a previously-verified user who is no longer verified.","user_id":"@bob:example.org","device_id":"PHONE","source":"direct"}`},
		{Judge(direct(owned("", false), in(bob, PinPinned))), `{"decrypted":false,"color":"red","code":"UnsignedDevice","message":"Encrypted by a device not verified by its owner.","user_id":"@bob:example.org","device_id":"PHONE","source":"direct"}`},
		{Judge(direct(Owner{UserID: bob}, nil)), `{"decrypted":false,"color":"red","code":"UnknownDevice","message":"Encrypted by an unknown or deleted device.","user_id":"@bob:example.org","source":"direct"}`},
		{Judge(spoofed), `{"decrypted":false,"color":"red","code":"MismatchedSender","message":"The sender of this message does not match the owner of the device that encrypted it.","user_id":"@bob:example.org","device_id":"PHONE","source":"direct"}`},
		{Judge(JudgeInput{Sender: bob, Source: store.SourceBackup}), `{"decrypted":true,"color":"grey","code":"AuthenticityNotGuaranteed","message":"The authenticity of this encrypted message can't be guaranteed on this device.","source":"backup"}`},
		{JudgeInClear(bob, Policy{}), `{"decrypted":false,"color":"red","code":"SentInClear","message":"Not encrypted, although the room is.","user_id":"@bob:example.org"}`},
		{JudgeUndecrypted(CodeMissingRoomKey, ""), `{"decrypted":false,"color":"none","code":"MissingRoomKey","message":"Waiting for this message."}`},
		{JudgeUndecrypted(CodeWithheld, event.RoomKeyWithheldUnverified), `{"decrypted":false,"color":"none","code":"Withheld","withheld_code":"m.unverified","message":"The sender held this message back because this device is not verified by its owner."}`},
		{JudgeUndecrypted(CodeUnknownMessageIndex, ""), `{"decrypted":false,"color":"none","code":"UnknownMessageIndex","message":"This message was sent before you were given access to the conversation."}`},
		{JudgeUndecrypted(CodeMalformed, ""), `{"decrypted":false,"color":"none","code":"Malformed","message":"This message is damaged and cannot be read."}`},
		{JudgeUndecrypted(CodeReplayed, ""), `{"decrypted":false,"color":"red","code":"Replayed","message":"This is a copy of an earlier message, and was refused."}`},
	} {
		got, err := json.Marshal(tc.verdict.Annotation())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, string(got)); diff != "" {
			t.Error(diff)
		}
	}
}

// When several devices claim a room key, the verdict of the claim that is trusted most
// counts: shown before withheld, with the lighter shield, and then what enforcing would
// show.
func TestAbove(t *testing.T) {
	t.Parallel()
	order := []Verdict{
		{Deliver: DeliverClear, Color: ColorNone, Enforced: DeliverClear},
		{Deliver: DeliverClear, Color: ColorGrey, Enforced: DeliverClear},
		{Deliver: DeliverClear, Color: ColorGrey, Enforced: DeliverWithheld},
		{Deliver: DeliverClear, Color: ColorRed, Enforced: DeliverClear},
		{Deliver: DeliverClear, Color: ColorRed, Enforced: DeliverWithheld},
		{Deliver: DeliverWithheld, Color: ColorRed},
		{},
	}
	for i, a := range order {
		for j, b := range order {
			if a.Above(b) != (i < j) {
				t.Errorf("%+v above %+v: %v", a, b, a.Above(b))
			}
		}
	}
}
