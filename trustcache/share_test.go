package trustcache

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// in makes a user in a pin state with devices.
func in(user id.UserID, state PinState, devices ...Device) *User {
	pin := map[PinState]Pin{
		PinNone:             {},
		PinPinned:           {Current: keyA, PinnedMaster: keyA},
		PinChanged:          {Current: keyB, PinnedMaster: keyA},
		PinVerified:         {Current: keyA, PinnedMaster: keyA, Verified: true, WasVerified: true},
		PinVerificationLost: {Current: keyB, PinnedMaster: keyA, WasVerified: true},
	}[state]
	return &User{
		UserID: user, Knowledge: KnowledgeFresh, Identity: Identity{Master: pin.Current}, Pin: pin, Devices: devices,
	}
}

func plainDevice(signed bool, more ...func(*Device)) Device {
	d := Device{
		UserID: bob, DeviceID: "PHONE", Ed25519: newSigner("x").public, Curve25519: newCurve("x"), Signed: signed,
		Algorithms: []id.Algorithm{id.AlgorithmOlmV1, id.AlgorithmMegolmV1},
	}
	for _, m := range more {
		m(&d)
	}
	return d
}

func dehydrated(d *Device)         { d.Dehydrated = true }
func unwilling(d *Device)          { d.DoNotEncrypt = true }
func trusted(d *Device)            { d.Override = OverrideTrusted }
func distrusted(d *Device)         { d.Override = OverrideDistrusted }
func faulty(f Fault) func(*Device) { return func(d *Device) { d.Fault = f } }

const (
	gives = "gives"
	wUnv  = "m.unverified"
	wBlk  = "m.blacklisted"
	none  = "nothing"
)

func shareCell(d ShareDecision) string {
	switch d.Outcome {
	case ShareGive:
		return gives
	case ShareWithhold:
		return string(d.Code)
	case ShareRefuse:
		return none
	default:
		return "invalid"
	}
}

// blocked is a cell in which nothing is sent to the room at all.
const blocked = "blocked"

// sendCell returns what becomes of a send to one device: first the gate, then the device.
func sendCell(u *User, in ShareInput) string {
	me := &User{UserID: alice, Own: true, Knowledge: KnowledgeFresh, Pin: Pin{Current: keyA, PinnedMaster: keyA, Verified: true, WasVerified: true}}
	if Gate([]*User{me, u}, in.Mode).Outcome != GateAllow {
		return blocked
	}
	return shareCell(Share(in))
}

// The rows of the reference's IdentityBasedStrategy. The columns are the state of the
// owner's identity: none, pinned, changed (pin violation), verified, verification lost.
// "reference" are the cells as they stand there ("-" cannot be; an error is "blocked"),
// "ours" under enforce; where they differ, why says so. "loose" is warn and off: done as
// without the rule, that is the reference's AllDevices, except for what no policy may
// switch off.
func TestSendTable(t *testing.T) {
	t.Parallel()
	type cells = [5]string
	const (
		// Requirement 0.4: nobody is written to whose identity changed and was not accepted, not
		// only who was verified.
		anyChange = "any unacknowledged change blocks"
		// No device can be signed without an identity; to believe it would be to believe whoever
		// says so.
		closed = "cannot be, and is refused if it is"
		// The reference looks at the signature only.
		distrust = "a local distrust always withholds"
		// Requirement 1.16: explicit, listed, logged. The reference has no such exception here.
		exception = "an override can trust a device"
		// Requirement 24.2, for any policy.
		dehydratedOnly = "keys never go to dehydrated devices without signature"
		// Requirements 1.19, 2.5, 1.25; attacks A10, A16. In the reference they do not get so far.
		notUsable = "such a device is none"
		// MSC4261, unstable: the reference does not know it.
		wish = "a device that wants no keys gets none, and is not told so"
	)
	states := []PinState{PinNone, PinPinned, PinChanged, PinVerified, PinVerificationLost}
	all := func(one string) cells { return cells{one, one, one, one, one} }
	asSigned, asUnsigned := cells{"-", gives, gives, gives, blocked}, cells{wUnv, wUnv, wUnv, wUnv, blocked}
	for _, tc := range []struct {
		name      string
		device    Device
		reference cells
		ours      cells
		loose     cells
		why       string
	}{
		{"signed", plainDevice(true), asSigned, cells{wUnv, gives, blocked, gives, blocked}, all(gives), anyChange + "; " + closed},
		{"unsigned", plainDevice(false), asUnsigned, cells{wUnv, wUnv, blocked, wUnv, blocked}, all(gives), anyChange},
		{"signed, blacklisted", plainDevice(true, distrusted), asSigned, cells{wBlk, wBlk, blocked, wBlk, blocked}, all(wBlk), anyChange + "; " + distrust},
		{"unsigned, blacklisted", plainDevice(false, distrusted), asUnsigned, cells{wBlk, wBlk, blocked, wBlk, blocked}, all(wBlk), anyChange + "; " + distrust},
		{"signed, locally verified", plainDevice(true, trusted), asSigned, cells{gives, gives, blocked, gives, blocked}, all(gives), anyChange + "; " + closed},
		{"unsigned, locally verified", plainDevice(false, trusted), asUnsigned, cells{gives, gives, blocked, gives, blocked}, all(gives), anyChange + "; " + exception},
		{"dehydrated, signed", plainDevice(true, dehydrated), asSigned, cells{wUnv, gives, blocked, gives, blocked}, cells{wUnv, gives, gives, gives, gives}, anyChange + "; " + closed},
		{"dehydrated, unsigned", plainDevice(false, dehydrated), asUnsigned, cells{wUnv, wUnv, blocked, wUnv, blocked}, all(wUnv), anyChange},
		{"dehydrated, unsigned, locally verified", plainDevice(false, dehydrated, trusted), asUnsigned, cells{wUnv, wUnv, blocked, wUnv, blocked}, all(wUnv), anyChange + "; " + dehydratedOnly},
		{"without keys (1.19)", plainDevice(true, faulty(FaultNoKeys)), all("-"), cells{none, none, blocked, none, blocked}, all(none), notUsable},
		{"without Megolm (2.5)", plainDevice(true, faulty(FaultNoAlgorithm)), all("-"), cells{none, none, blocked, none, blocked}, all(none), notUsable},
		{"shares a key with another (A16)", plainDevice(true, faulty(FaultSharedKey)), all("-"), cells{none, none, blocked, none, blocked}, all(none), notUsable},
		{"named like an identity key (A10)", plainDevice(true, trusted, faulty(FaultIdentityKey)), all("-"), cells{none, none, blocked, none, blocked}, all(none), notUsable},
		{"do_not_encrypt (MSC4261), signed", plainDevice(true, unwilling), asSigned, cells{none, none, blocked, none, blocked}, all(none), wish},
		{"do_not_encrypt, unsigned", plainDevice(false, unwilling), asUnsigned, cells{none, none, blocked, none, blocked}, all(none), wish},
		{"do_not_encrypt, locally verified", plainDevice(false, unwilling, trusted), asUnsigned, cells{none, none, blocked, none, blocked}, all(none), wish},
		{"do_not_encrypt, blacklisted", plainDevice(true, unwilling, distrusted), asSigned, cells{none, none, blocked, none, blocked}, all(none), wish},
		{"of another user", plainDevice(true, func(d *Device) { d.UserID = carol }), all("-"), cells{none, none, blocked, none, blocked}, all(none), notUsable},
	} {
		if (tc.reference != tc.ours) != (tc.why != "") {
			t.Errorf("%s: what differs from the reference and why do not go together", tc.name)
		}
		for i, state := range states {
			u := in(bob, state, tc.device)
			ask := func(mode Mode) ShareInput {
				return ShareInput{User: u, Device: &u.Devices[0], SenderUser: alice, SenderDevice: "PHONE", Mode: mode}
			}
			strict := Share(ask(ModeEnforce))
			if got := sendCell(u, ask(ModeEnforce)); got != tc.ours[i] || strict.Enforced != strict.Outcome {
				t.Errorf("%s, %v, enforce: got %s, want %s", tc.name, state, got, tc.ours[i])
			}
			if tc.ours[i] == blocked && strict.Outcome == ShareGive {
				t.Errorf("%s, %v: who forgets the gate gives the key away", tc.name, state)
			}
			warn := Share(ask(ModeWarn))
			if got := sendCell(u, ask(ModeWarn)); got != tc.loose[i] || warn.Enforced != strict.Outcome {
				t.Errorf("%s, %v, warn: got %s, want %s; enforced %v", tc.name, state, got, tc.loose[i], warn.Enforced)
			}
			off := Share(ask(ModeOff))
			if got := sendCell(u, ask(ModeOff)); got != tc.loose[i] || off.Enforced != off.Outcome {
				t.Errorf("%s, %v, off: got %s, want %s", tc.name, state, got, tc.loose[i])
			}
			if got := Share(ask(Mode(9))); got.Outcome != ShareRefuse {
				t.Errorf("%s, %v, unknown mode: got %s", tc.name, state, shareCell(got))
			}
		}
	}
}

func TestShareOwnDevicesAndUnknownUsers(t *testing.T) {
	t.Parallel()
	dev := plainDevice(true)
	own := in(bob, PinVerified, dev)
	own.Own = true
	other := plainDevice(true, func(d *Device) { d.DeviceID = "OTHER" })
	unsigned := plainDevice(false, func(d *Device) { d.DeviceID = "OTHER" })
	unknown, unreachable, stale := in(bob, PinPinned, dev), in(bob, PinPinned, dev), in(bob, PinPinned, dev)
	unknown.Knowledge, unreachable.Knowledge, stale.Knowledge = KnowledgeUnknown, KnowledgeUnreachable, KnowledgeStale
	for _, tc := range []struct {
		name   string
		user   *User
		device *Device
		sender id.UserID
		want   string
	}{
		{"the sending device itself", own, &dev, bob, none},
		{"the same device ID of another user", in(bob, PinPinned), &dev, alice, gives},
		{"another own device, signed", own, &other, bob, gives},
		{"another own device, unsigned", own, &unsigned, bob, wUnv},
		{"own devices while the own identity changed", in(bob, PinVerificationLost), &other, bob, none},
		{"nothing known (0.12)", unknown, &dev, alice, none},
		{"unreachable (0.12)", unreachable, &dev, alice, none},
		{"known from before", stale, &dev, alice, gives},
		{"no user", nil, &dev, alice, none},
		{"no device", own, nil, alice, none},
	} {
		got := Share(ShareInput{User: tc.user, Device: tc.device, SenderUser: tc.sender, SenderDevice: "PHONE"})
		if shareCell(got) != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, shareCell(got), tc.want)
		}
	}
	if got := Share(ShareInput{}); got != (ShareDecision{}) || got.Outcome != ShareRefuse {
		t.Errorf("nothing asked: %+v", got)
	}
	if got := Share(ShareInput{User: own, Device: &unsigned, SenderUser: alice}); got.Code != event.RoomKeyWithheldUnverified || got.Reason != ReasonUnsigned {
		t.Errorf("got %+v", got)
	}
}

// Requirement 0.4: any unacknowledged change blocks; 0.12: unknown does not.
func TestGate(t *testing.T) {
	t.Parallel()
	me := in(alice, PinVerified)
	me.Own = true
	meChanged := in(alice, PinVerificationLost)
	meChanged.Own = true
	meNone := in(alice, PinNone)
	meNone.Own = true
	meUnknown := &User{UserID: alice, Own: true}
	lost := &User{UserID: carol, Knowledge: KnowledgeUnreachable}
	staleChanged := in(carol, PinChanged)
	staleChanged.Knowledge = KnowledgeStale
	blocked := func(users ...BlockedUser) []BlockedUser { return users }
	changed := BlockedUser{bob, PinChanged, false, keyB}
	for _, tc := range []struct {
		name  string
		users []*User
		mode  Mode
		want  GateDecision
	}{
		{"nobody", nil, ModeEnforce, GateDecision{}},
		{"not even ourselves", []*User{in(bob, PinPinned)}, ModeEnforce, GateDecision{}},
		{"own user unknown", []*User{meUnknown, in(bob, PinPinned)}, ModeEnforce, GateDecision{}},
		{"a user missing", []*User{me, nil}, ModeEnforce, GateDecision{}},
		{"alone", []*User{me}, ModeEnforce, GateDecision{Outcome: GateAllow, Enforced: GateAllow}},
		{"own user without identity", []*User{meNone}, ModeEnforce, GateDecision{Outcome: GateAllow, Enforced: GateAllow}},
		{"pinned, verified and without identity", []*User{me, in(bob, PinPinned), in(carol, PinVerified), in("@d:x", PinNone)}, ModeEnforce, GateDecision{Outcome: GateAllow, Enforced: GateAllow}},
		{"changed", []*User{me, in(bob, PinChanged)}, ModeEnforce, GateDecision{Outcome: GateBlocked, Enforced: GateBlocked, Blocked: blocked(changed)}},
		{
			"changed and lost", []*User{me, in(bob, PinChanged), in(carol, PinVerificationLost)}, ModeEnforce,
			GateDecision{Outcome: GateBlocked, Enforced: GateBlocked, Blocked: blocked(changed, BlockedUser{carol, PinVerificationLost, false, keyB})},
		},
		{"own identity changed (A9)", []*User{meChanged}, ModeEnforce, GateDecision{Outcome: GateBlocked, Enforced: GateBlocked, Blocked: blocked(BlockedUser{alice, PinVerificationLost, true, keyB})}},
		{"unreachable", []*User{me, lost}, ModeEnforce, GateDecision{Outcome: GateAllow, Enforced: GateAllow, Unreached: []id.UserID{carol}}},
		{"unreachable, changed before", []*User{me, staleChanged}, ModeEnforce, GateDecision{Outcome: GateBlocked, Enforced: GateBlocked, Blocked: blocked(BlockedUser{carol, PinChanged, false, keyB})}},
		{"warn", []*User{me, in(bob, PinChanged)}, ModeWarn, GateDecision{Outcome: GateAllow, Enforced: GateBlocked, Blocked: blocked(changed)}},
		{"off", []*User{me, in(bob, PinChanged)}, ModeOff, GateDecision{Outcome: GateAllow, Enforced: GateAllow}},
		{"off, but cannot tell", []*User{meUnknown}, ModeOff, GateDecision{}},
		{"unknown mode", []*User{me}, Mode(9), GateDecision{}},
	} {
		if diff := cmp.Diff(tc.want, Gate(tc.users, tc.mode)); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}
