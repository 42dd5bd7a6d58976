package trustcache

import (
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// What becomes of a decrypted room event. The rows are the reference's verification states;
// "crossSigned" and "untrusted" are its cells under those trust requirements with the lax
// shield that clients use, "enforce" and "loose" (warn, off) are ours. Where they differ,
// why says so. There are no legacy sessions here, so that CrossSignedOrLegacy is
// CrossSigned.
func TestIncomingTable(t *testing.T) {
	t.Parallel()
	const (
		fine = "clear none "
		red  = "clear red "
		held = "withheld red "
		grey = "clear grey AuthenticityNotGuaranteed"

		// Requirement 0.4: every message tells of a change that waits for an answer.
		change = "an unacknowledged change is shown red, verified before or not, and hides nothing"
		// Requirements 0.7, 0.11: neither the spec nor MSC4153 asks to hide them.
		source = "keys without proof of their sender are a source of their own, shown grey"
		// Requirement 1.16; the reference's local trust has no effect on room events.
		override = "an override counts in both directions"
		// Attacks A1, A2: the text is not the sender's, whatever the policy.
		spoof = "who does not own the key is refused in every mode"
		// Requirements 1.20 and 1.21.
		listed = "a listed bridge is shown with the warning the spec demands"
		// Requirement 16.9.
		attested = "an authenticated backup proves what its writer knew"
	)
	signed, unsigned := plainDevice(true), plainDevice(false)
	unknown := Owner{UserID: bob, Curve25519: newCurve("x"), Ed25519: newSigner("x").public}
	proven := owned(keyA, true)
	proven.Attested = true
	for _, tc := range []struct {
		state                  string
		in                     JudgeInput
		crossSigned, untrusted string
		enforce, loose         string
		why                    string
	}{
		{"Verified", JudgeInput{Owner: owned(keyA, true), OwnerUser: in(bob, PinVerified, signed)}, fine, fine, fine, fine, ""},
		{"UnverifiedIdentity, pinned", JudgeInput{Owner: owned(keyA, true), OwnerUser: in(bob, PinPinned, signed)}, fine, fine, fine, fine, ""},
		{"UnverifiedIdentity, pin violation", JudgeInput{Owner: owned(keyB, false), OwnerUser: in(bob, PinChanged, signed)}, fine, fine, red + "UnverifiedIdentity", red + "UnverifiedIdentity", change},
		{"VerificationViolation", JudgeInput{Owner: owned(keyB, false), OwnerUser: in(bob, PinVerificationLost, signed)}, held + "VerificationViolation", red + "VerificationViolation", red + "VerificationViolation", red + "VerificationViolation", change},
		{"UnsignedDevice", JudgeInput{Owner: owned("", false), OwnerUser: in(bob, PinPinned, unsigned)}, held + "UnsignedDevice", red + "UnsignedDevice", held + "UnsignedDevice", red + "UnsignedDevice", ""},
		{"UnsignedDevice of a user without identity", JudgeInput{Owner: owned("", false), OwnerUser: in(bob, PinNone, unsigned)}, held + "UnsignedDevice", red + "UnsignedDevice", held + "UnsignedDevice", red + "UnsignedDevice", ""},
		{"UnsignedDevice, trusted locally", JudgeInput{Owner: owned("", false), OwnerUser: in(bob, PinPinned, plainDevice(false, trusted))}, held + "UnsignedDevice", red + "UnsignedDevice", red + "UnsignedDevice", red + "UnsignedDevice", override},
		{"UnverifiedIdentity, distrusted locally", JudgeInput{Owner: owned(keyA, true), OwnerUser: in(bob, PinPinned, plainDevice(true, distrusted))}, fine, fine, held + "UnsignedDevice", held + "UnsignedDevice", override},
		{"None(MissingDevice)", JudgeInput{Owner: unknown, OwnerUser: in(bob, PinPinned)}, held + "UnknownDevice", red + "UnknownDevice", held + "UnknownDevice", red + "UnknownDevice", ""},
		{"None(MissingDevice), user unknown", JudgeInput{Owner: unknown}, held + "UnknownDevice", red + "UnknownDevice", held + "UnknownDevice", red + "UnknownDevice", ""},
		{"None(InsecureSource), backup", JudgeInput{Source: store.SourceBackup, Owner: owned(keyA, true)}, "withheld grey AuthenticityNotGuaranteed", grey, grey, grey, source},
		{"None(InsecureSource), import", JudgeInput{Source: store.SourceImport, Owner: owned(keyA, true)}, "withheld grey AuthenticityNotGuaranteed", grey, grey, grey, source},
		{"None(InsecureSource), forwarded", JudgeInput{Source: store.SourceForwarded, Owner: owned(keyA, true)}, "withheld grey AuthenticityNotGuaranteed", grey, grey, grey, source},
		{"None(InsecureSource), history bundle", JudgeInput{Source: store.SourceBundle, Owner: owned(keyA, true)}, "withheld grey AuthenticityNotGuaranteed", grey, grey, grey, source},
		{"None(InsecureSource), of an authenticated backup", JudgeInput{Source: store.SourceBackup, Owner: proven, OwnerUser: in(bob, PinPinned, signed)}, "withheld grey AuthenticityNotGuaranteed", grey, fine, fine, attested},
		{"MismatchedSender", JudgeInput{Sender: carol, Owner: owned(keyA, true), OwnerUser: in(bob, PinVerified, signed)}, held + "MismatchedSender", red + "MismatchedSender", held + "MismatchedSender", held + "MismatchedSender", spoof},
		{"MismatchedSender, of a listed bridge", JudgeInput{Sender: carol, Owner: owned(keyA, true), OwnerUser: in(bob, PinPinned, signed), Policy: Policy{Bridges: map[id.UserID]bool{bob: true}}}, held + "MismatchedSender", red + "MismatchedSender", red + "MismatchedSender", red + "MismatchedSender", listed},
		{"MismatchedSender, of a listed bridge's unsigned device", JudgeInput{Sender: carol, Owner: owned("", false), OwnerUser: in(bob, PinPinned, unsigned), Policy: Policy{Bridges: map[id.UserID]bool{bob: true}}}, held + "MismatchedSender", red + "MismatchedSender", held + "MismatchedSender", held + "MismatchedSender", spoof},
	} {
		if differs := tc.crossSigned != tc.enforce || tc.untrusted != tc.loose; differs != (tc.why != "") {
			t.Errorf("%s: what differs from the reference and why do not go together", tc.state)
		}
		if tc.in.Sender == "" {
			tc.in.Sender = bob
		}
		if tc.in.Source == "" {
			tc.in.Source = store.SourceDirect
		}
		tc.in.Own = alice
		for mode, want := range map[Mode]string{ModeEnforce: tc.enforce, ModeWarn: tc.loose, ModeOff: tc.loose} {
			tc.in.Policy.Receive = mode
			if got := verdictCell(Judge(tc.in)); got != want {
				t.Errorf("%s, mode %d: %q, want %q", tc.state, mode, got, want)
			}
		}
	}
}

// What was recorded of a room key's sender, and what is known of them when an event is
// read. What was recorded is added to and never taken away; only a change of identity that
// waits for an answer shows through it.
func TestSenderDataTable(t *testing.T) {
	t.Parallel()
	const fine, unsigned, unknown, identity, lost = "clear none ", "withheld red UnsignedDevice", "withheld red UnknownDevice", "clear red UnverifiedIdentity", "clear red VerificationViolation"
	otherKey := func(d *Device) { d.Ed25519 = newSigner("y").public }
	known := []struct {
		name string
		user *User
	}{
		{"nothing", nil},
		{"the user, not the device", in(bob, PinPinned)},
		{"the device, not signed", in(bob, PinPinned, plainDevice(false))},
		{"the device, signed, identity accepted", in(bob, PinPinned, plainDevice(true))},
		{"the device, signed, identity verified", in(bob, PinVerified, plainDevice(true))},
		{"the device, signed, identity changed", in(bob, PinChanged, plainDevice(true))},
		{"the device, signed, verification lost", in(bob, PinVerificationLost, plainDevice(true))},
		// The reference's MismatchedIdentityKeys: one known key that differs is enough.
		{"a device with this Curve25519 and another Ed25519 key", in(bob, PinPinned, plainDevice(true, otherKey))},
		{"a device at fault", in(bob, PinPinned, plainDevice(true, faulty(FaultSharedKey)))},
	}
	info := owned("", false)
	bare := info
	bare.DeviceID = ""
	for _, tc := range []struct {
		recorded string
		owner    Owner
		want     [9]string
	}{
		{"UnknownDevice (0)", bare, [9]string{unknown, unknown, unsigned, fine, fine, identity, lost, unknown, unsigned}},
		{"DeviceInfo (1)", info, [9]string{unsigned, unsigned, unsigned, fine, fine, identity, lost, unsigned, unsigned}},
		{"VerificationViolation (2): signed by an identity that was not accepted", owned(keyB, false), [9]string{identity, identity, identity, fine, fine, identity, lost, identity, identity}},
		{"SenderUnverified (3), SenderVerified (4): signed by one that was", owned(keyA, true), [9]string{fine, fine, fine, fine, fine, identity, lost, fine, fine}},
	} {
		for i, k := range known {
			got := Judge(JudgeInput{Sender: bob, Own: alice, Source: store.SourceDirect, Owner: tc.owner, OwnerUser: k.user})
			if verdictCell(got) != tc.want[i] {
				t.Errorf("%s, known is %s: %q, want %q", tc.recorded, k.name, verdictCell(got), tc.want[i])
			}
			after, _ := tc.owner.Upgrade(k.user)
			if tc.owner.Signed && !after.Signed || tc.owner.Accepted && !after.Accepted || tc.owner.DeviceID != "" && after.DeviceID != tc.owner.DeviceID {
				t.Errorf("%s, known is %s: downgraded to %+v", tc.recorded, k.name, after)
			}
		}
	}
}

// Encrypted to-device messages: one sign for each sender, + is processed and - dropped. The
// reference does the same under CrossSigned, but takes messages of users whose identity
// changed (requirement 0.4: any unacknowledged change counts), and knows no override for
// distrust (requirement 1.16).
func TestToDeviceTable(t *testing.T) {
	t.Parallel()
	senders := []struct {
		name string
		from Owner
		user *User
	}{
		{"signed, verified", owned("", false), in(bob, PinVerified, plainDevice(true))},
		{"signed, pinned", owned("", false), in(bob, PinPinned, plainDevice(true))},
		{"signed, changed", owned("", false), in(bob, PinChanged, plainDevice(true))},
		{"signed, lost", owned("", false), in(bob, PinVerificationLost, plainDevice(true))},
		{"unsigned", owned("", false), in(bob, PinPinned, plainDevice(false))},
		{"unknown", owned("", false), in(bob, PinPinned)},
		{"user unknown", owned("", false), nil},
		{"unsigned, trusted", owned("", false), in(bob, PinPinned, plainDevice(false, trusted))},
		{"signed, distrusted", owned("", false), in(bob, PinPinned, plainDevice(true, distrusted))},
		{"dehydrated, signed", owned("", false), in(bob, PinPinned, plainDevice(true, dehydrated))},
		{"nobody", Owner{}, in(bob, PinPinned, plainDevice(true))},
	}
	const anybody, signedOnly = "++++ +++ ++ --", "++-- --- +- --"
	for _, tc := range []struct {
		types []string
		want  string
	}{
		{[]string{
			"m.room_key", "m.room_key.withheld", "m.room_key_request", "m.secret.request",
			"m.key.verification.request", "m.key.verification.start", "m.key.verification.mac", "m.key.verification.cancel",
		}, anybody},
		{[]string{"m.forwarded_room_key", "m.secret.send", "m.room_key_bundle", "m.dummy", "org.example.custom", "m.room_key.", "", "m.key.verification"}, signedOnly},
	} {
		cells := strings.ReplaceAll(tc.want, " ", "")
		for _, eventType := range tc.types {
			for i, s := range senders {
				want := map[byte]ToDeviceOutcome{'+': ToDeviceProcess, '-': ToDeviceDrop}[cells[i]]
				if got := ToDevice(eventType, s.from, s.user, ModeEnforce); got != want {
					t.Errorf("%q of %s: %v, want %v", eventType, s.name, got, want)
				}
			}
		}
	}
}

// The text of each code. Ours is the reference's except where a person is told more, or
// what the proxy does (requirement 26.1).
func TestShieldMessages(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		code            Code
		reference, ours string // ours is empty where it is the reference's
		why             string
	}{
		{CodeAuthenticityNotGuaranteed, "The authenticity of this encrypted message can't be guaranteed on this device.", "", ""},
		{CodeUnknownDevice, "Encrypted by an unknown or deleted device.", "", ""},
		{CodeUnsignedDevice, "Encrypted by a device not verified by its owner.", "", ""},
		{CodeVerificationViolation, "Encrypted by a previously-verified user who is no longer verified.", "", ""},
		{CodeUnverifiedIdentity, "Encrypted by an unverified user.", "The sender's digital identity was reset, and the change has not been acknowledged.", "here it is shown for an unacknowledged change only; to be unverified is no fault"},
		{CodeMismatchedSender, "The sender of the event does not match the owner of the device that created the Megolm session.", "The sender of this message does not match the owner of the device that encrypted it.", "no word of sessions to a person"},
		{CodeSentInClear, "", "Not encrypted, although the room is.", "the reference's text is the client's"},
	} {
		want := tc.ours
		if want == "" {
			want = tc.reference
		}
		if got := tc.code.message(); got != want || (tc.ours != "") != (tc.why != "") {
			t.Errorf("%s: %q, want %q", tc.code, got, want)
		}
	}
}
