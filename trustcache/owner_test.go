package trustcache

import (
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// An owner is upgraded by what becomes known, never downgraded.
func TestOwnerUpgrade(t *testing.T) {
	t.Parallel()
	p, p2 := newPerson(bob, "1"), newPerson(bob, "2")
	parsed := func(f fields, self id.Ed25519) Device {
		d, err := ParseDevice(f.raw(), bob, f.id())
		if err != nil {
			t.Fatal(err)
		}
		d.Signed = d.SignedBy(self)
		return d
	}
	user := func(p person, pinned id.Ed25519, devices ...Device) *User {
		row := store1(bob)
		row.PinnedMaster = pinned.String()
		return newEntry(alice, row, p.identity(t), devices).user
	}
	self, master := p.selfSign.public, p.master.public
	unsigned, signed := parsed(p.device("PHONE"), self), parsed(p.signedDevice("PHONE"), self)
	keys := Owner{UserID: bob, Curve25519: signed.Curve25519, Ed25519: signed.Ed25519}
	carrying := func(d Device) Owner {
		o := keys
		o.DeviceID, o.DeviceKeys = d.DeviceID, d.Raw
		return o
	}
	foreign := parsed(deviceFields(bob, "OTHER", "other").sign(bob, self.String(), p.selfSign), self)
	full := carrying(signed)
	full.Signed, full.Master, full.Accepted = true, master, true
	for _, tc := range []struct {
		name                     string
		from                     Owner
		user                     *User
		device, signed, accepted bool
	}{
		{"nothing known", keys, nil, false, false, false},
		{"unknown user", keys, &User{UserID: bob}, false, false, false},
		{"another user", keys, newEntry(alice, store1(carol), Identity{}, []Device{signed}).user, false, false, false},
		{"unsigned device", keys, user(p, master, unsigned), true, false, false},
		{"signed device", keys, user(p, master, signed), true, true, true},
		{"signed device, identity not accepted", keys, user(p, "other", signed), true, true, false},
		{"device gone, keys carried with signature (MSC4147)", carrying(signed), user(p, master), true, true, true},
		{"device gone, keys carried without", carrying(unsigned), user(p, master), true, false, false},
		{"device unsigned on the server, keys carried with signature", carrying(signed), user(p, master, unsigned), true, true, true},
		{"keys carried, signed by an older identity", carrying(signed), user(p2, p2.master.public), true, false, false},
		{"keys carried of another device (A15)", func() Owner { o := carrying(foreign); o.DeviceID = "OTHER"; return o }(), user(p, master), true, false, false},
		{"keys carried of another user (A15)", func() Owner {
			o := carrying(signed)
			d := deviceFields(carol, "PHONE", "c")
			o.DeviceKeys = d.raw()
			return o
		}(), user(p, master), true, false, false},
		{"another device's Ed25519 key", Owner{UserID: bob, Curve25519: signed.Curve25519, Ed25519: foreign.Ed25519}, user(p, master, signed), false, false, false},
		{"two devices claim the key (A16)", keys, user(p, master, signed, parsed(deviceFields(bob, "TWO", "@bob:example.org PHONE"), self)), false, false, false},
		{"two devices claim the key, keys carried", carrying(signed), user(p, master, signed, parsed(deviceFields(bob, "TWO", "@bob:example.org PHONE"), self)), true, false, false},
		{"never downgraded: device unsigned now", full, user(p, master, unsigned), true, true, true},
		{"never downgraded: device gone", full, user(p, master), true, true, true},
		{"never downgraded: identity changed", full, user(p2, master), true, true, true},
		{"accepted later", func() Owner { o := full; o.Accepted = false; return o }(), user(p, master), true, true, true},
		{"another identity accepted, which does not sign the device", func() Owner { o := full; o.Accepted = false; return o }(), user(p2, p2.master.public, unsigned), true, true, false},
	} {
		got, changed := tc.from.Upgrade(tc.user)
		if got.Known() != tc.device || got.Signed != tc.signed || got.Accepted != tc.accepted {
			t.Errorf("%s: device %v, signed %v, accepted %v", tc.name, got.Known(), got.Signed, got.Accepted)
		}
		differs := got.Known() != tc.from.Known() || got.Signed != tc.from.Signed || got.Accepted != tc.from.Accepted
		if changed != differs {
			t.Errorf("%s: reports change %v", tc.name, changed)
		}
		if got.Curve25519 != tc.from.Curve25519 || got.Ed25519 != tc.from.Ed25519 || got.UserID != tc.from.UserID {
			t.Errorf("%s: the owner became another", tc.name)
		}
	}
}

// Which decrypted to-device messages are processed.
func TestToDevice(t *testing.T) {
	t.Parallel()
	from := owned("", false)
	signed, unsigned := in(bob, PinPinned, plainDevice(true)), in(bob, PinPinned, plainDevice(false))
	for _, tc := range []struct {
		name string
		typ  string
		from Owner
		user *User
		mode Mode
		want ToDeviceOutcome
	}{
		{"room key, unsigned: judged when it is used", "m.room_key", from, unsigned, ModeEnforce, ToDeviceProcess},
		{"room key, unknown user", "m.room_key", from, nil, ModeEnforce, ToDeviceProcess},
		{"room key, dehydrated (24.2)", "m.room_key", from, in(bob, PinPinned, plainDevice(true, dehydrated)), ModeEnforce, ToDeviceDrop},
		{"room key, nobody", "m.room_key", Owner{}, signed, ModeEnforce, ToDeviceDrop},
		{"verification, unsigned", "m.key.verification.start", from, unsigned, ModeEnforce, ToDeviceProcess},
		{"secret, signed", "m.secret.send", from, signed, ModeEnforce, ToDeviceProcess},
		{"secret, unsigned (A13)", "m.secret.send", from, unsigned, ModeEnforce, ToDeviceDrop},
		{"secret, unknown user", "m.secret.send", from, nil, ModeEnforce, ToDeviceDrop},
		{"bundle, unsigned (17.5)", "m.room_key_bundle", from, unsigned, ModeEnforce, ToDeviceDrop},
		{"bundle, signed, identity changed", "m.room_key_bundle", from, in(bob, PinChanged, plainDevice(true)), ModeEnforce, ToDeviceDrop},
		{"custom, unsigned, warn", "org.example.x", from, unsigned, ModeWarn, ToDeviceProcess},
		{"custom, unsigned, off", "org.example.x", from, unsigned, ModeOff, ToDeviceProcess},
		{"custom, unsigned, trusted", "org.example.x", from, in(bob, PinPinned, plainDevice(false, trusted)), ModeEnforce, ToDeviceProcess},
		{"custom, distrusted", "org.example.x", from, in(bob, PinPinned, plainDevice(true, distrusted)), ModeOff, ToDeviceDrop},
		{"custom, unknown mode", "org.example.x", from, unsigned, Mode(9), ToDeviceDrop},
	} {
		if got := ToDevice(tc.typ, tc.from, tc.user, tc.mode); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

// An attested owner without a name is given the name of the user whose device has both of
// its keys, of that one only, and of nobody else (attacks A1, A16).
func TestOwnerNamed(t *testing.T) {
	t.Parallel()
	p := newPerson(bob, "1")
	parse := func(user id.UserID, f fields) Device {
		d, err := ParseDevice(f.raw(), user, f.id())
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	user := func(name id.UserID, devices ...Device) *User {
		return newEntry(alice, store1(name), Identity{}, devices).user
	}
	phone := parse(bob, p.device("PHONE"))
	twin := phone
	twin.DeviceID = "TWIN"
	broken := user(bob, phone)
	broken.Devices[0].Fault = FaultIdentityKey
	keys := Owner{Curve25519: phone.Curve25519, Ed25519: phone.Ed25519, Attested: true}
	change := func(how func(o *Owner)) Owner { o := keys; how(&o); return o }
	for _, tc := range []struct {
		name string
		from Owner
		user *User
		want bool
	}{
		{"its device", keys, user(bob, phone), true},
		{"nothing known", keys, nil, false},
		{"not attested", change(func(o *Owner) { o.Attested = false }), user(bob, phone), false},
		{"named before", change(func(o *Owner) { o.UserID = carol }), user(bob, phone), false},
		{"another user's devices", keys, user(carol, parse(carol, deviceFields(carol, "PHONE", "c"))), false},
		{"no such device", keys, user(bob), false},
		{"another signing key", change(func(o *Owner) { o.Ed25519 = "other" }), user(bob, phone), false},
		{"no signing key", change(func(o *Owner) { o.Ed25519 = "" }), user(bob, phone), false},
		{"no key", Owner{Attested: true}, user(bob, phone), false},
		{"two devices claim it", keys, user(bob, phone, twin), false},
		{"a device that is not usable", keys, broken, false},
	} {
		got, named := tc.from.Named(tc.user)
		if named != tc.want || (named && (got.UserID != bob || got.DeviceID != "PHONE")) || (!named && got.UserID != tc.from.UserID) {
			t.Errorf("%s: %+v, %v", tc.name, got, named)
		}
	}
	v := Judge(JudgeInput{Sender: bob, Own: alice, Source: store.SourceBackup, Owner: keys, Policy: Policy{Unproven: UnprovenShow}})
	if v.Deliver != DeliverClear || v.Color != ColorGrey || v.Code != CodeAuthenticityNotGuaranteed {
		t.Errorf("an owner without a name is judged as %+v", v)
	}
}
