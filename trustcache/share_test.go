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

// trust-semantics §2.1, rows of IdentityBasedStrategy, with our deviations; the columns
// are the state of the owner's identity.
func TestShareTable(t *testing.T) {
	t.Parallel()
	states := []PinState{PinNone, PinPinned, PinChanged, PinVerified, PinVerificationLost}
	for _, tc := range []struct {
		name    string
		device  Device
		enforce [5]string
		loose   [5]string // warn and off
	}{
		{"signed", plainDevice(true), [5]string{gives, gives, none, gives, none}, [5]string{gives, gives, gives, gives, gives}},
		{"unsigned", plainDevice(false), [5]string{wUnv, wUnv, none, wUnv, none}, [5]string{gives, gives, gives, gives, gives}},
		{"signed, distrusted", plainDevice(true, distrusted), [5]string{wBlk, wBlk, wBlk, wBlk, wBlk}, [5]string{wBlk, wBlk, wBlk, wBlk, wBlk}},
		{"unsigned, distrusted", plainDevice(false, distrusted), [5]string{wBlk, wBlk, wBlk, wBlk, wBlk}, [5]string{wBlk, wBlk, wBlk, wBlk, wBlk}},
		{"unsigned, trusted", plainDevice(false, trusted), [5]string{gives, gives, none, gives, none}, [5]string{gives, gives, gives, gives, gives}},
		{"signed, trusted", plainDevice(true, trusted), [5]string{gives, gives, none, gives, none}, [5]string{gives, gives, gives, gives, gives}},
		{"dehydrated, signed", plainDevice(true, dehydrated), [5]string{gives, gives, none, gives, none}, [5]string{gives, gives, gives, gives, gives}},
		{"dehydrated, unsigned (24.2)", plainDevice(false, dehydrated), [5]string{wUnv, wUnv, wUnv, wUnv, wUnv}, [5]string{wUnv, wUnv, wUnv, wUnv, wUnv}},
		{"dehydrated, unsigned, trusted", plainDevice(false, dehydrated, trusted), [5]string{wUnv, wUnv, wUnv, wUnv, wUnv}, [5]string{wUnv, wUnv, wUnv, wUnv, wUnv}},
		{"without keys (1.19)", plainDevice(true, faulty(FaultNoKeys)), [5]string{none, none, none, none, none}, [5]string{none, none, none, none, none}},
		{"without Megolm", plainDevice(true, faulty(FaultNoAlgorithm)), [5]string{none, none, none, none, none}, [5]string{none, none, none, none, none}},
		{"shares a key (A16)", plainDevice(true, faulty(FaultSharedKey)), [5]string{none, none, none, none, none}, [5]string{none, none, none, none, none}},
		{"named like a key (A10)", plainDevice(true, trusted, faulty(FaultIdentityKey)), [5]string{none, none, none, none, none}, [5]string{none, none, none, none, none}},
		{"of another user", plainDevice(true, func(d *Device) { d.UserID = carol }), [5]string{none, none, none, none, none}, [5]string{none, none, none, none, none}},
	} {
		for i, state := range states {
			u := in(bob, state, tc.device)
			ask := func(mode Mode) ShareDecision {
				return Share(ShareInput{User: u, Device: &u.Devices[0], SenderUser: alice, SenderDevice: "PHONE", Mode: mode})
			}
			enforced := ask(ModeEnforce)
			if got := shareCell(enforced); got != tc.enforce[i] || enforced.Enforced != enforced.Outcome {
				t.Errorf("%s, %v, enforce: got %s, want %s", tc.name, state, got, tc.enforce[i])
			}
			warn := ask(ModeWarn)
			if got := shareCell(warn); got != tc.loose[i] || warn.Enforced != enforced.Outcome {
				t.Errorf("%s, %v, warn: got %s, want %s; enforced %v", tc.name, state, got, tc.loose[i], warn.Enforced)
			}
			off := ask(ModeOff)
			if got := shareCell(off); got != tc.loose[i] || off.Enforced != off.Outcome {
				t.Errorf("%s, %v, off: got %s, want %s", tc.name, state, got, tc.loose[i])
			}
			if got := ask(Mode(9)); got.Outcome != ShareRefuse {
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

// Design §5, conflict 0.4: any unacknowledged change blocks; 0.12: unknown does not.
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
