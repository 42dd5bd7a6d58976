package trustcache

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"
)

const (
	alice = id.UserID("@alice:example.org")
	bob   = id.UserID("@bob:example.org")
	carol = id.UserID("@carol:elsewhere.example")
)

func with(f fields, name string, value any) fields {
	out := maps.Clone(f)
	out[name] = value
	return out
}

// MSC4261: only true, inside what the device has signed, means that it wants no keys. A
// homeserver can neither add it nor take it away.
func TestParseDoNotEncrypt(t *testing.T) {
	t.Parallel()
	key := newSigner("phone")
	for _, tc := range []struct {
		value any
		want  bool
	}{{true, true}, {false, false}, {nil, false}, {"true", false}, {1, false}, {[]any{true}, false}} {
		f := with(deviceFields(alice, "PHONE", "phone"), doNotEncrypt, tc.value)
		delete(f, "signatures")
		raw := f.sign(alice, "PHONE", key).raw()
		d, err := ParseDevice(raw, alice, "PHONE")
		if err != nil || d.DoNotEncrypt != tc.want || !d.Usable() {
			t.Errorf("%v: %v, %v", tc.value, d.DoNotEncrypt, err)
		}
		back, _, err := readDevice(d.stored().Keys, alice, "PHONE")
		if err != nil || back.DoNotEncrypt != tc.want {
			t.Errorf("%v: read back as %v, %v", tc.value, back.DoNotEncrypt, err)
		}
	}
	forged := with(deviceFields(alice, "PHONE", "phone"), doNotEncrypt, true).raw()
	if _, err := ParseDevice(forged, alice, "PHONE"); !errors.Is(err, ErrSignature) {
		t.Errorf("added after signing: %v", err)
	}
}

func TestParseDevice(t *testing.T) {
	t.Parallel()
	key := newSigner("phone")
	good := deviceFields(alice, "PHONE", "phone")
	d, err := ParseDevice(good.raw(), alice, "PHONE")
	if err != nil {
		t.Fatal(err)
	}
	if !d.Usable() || d.Ed25519 != key.public || d.Curve25519 != newCurve("phone") || d.Signed || d.Dehydrated {
		t.Errorf("unexpected device %+v", d)
	}
	resigned := func(f fields) json.RawMessage {
		delete(f, "signatures")
		return f.sign(alice, "PHONE", key).raw()
	}
	keys := func(ed, curve any) fields {
		return fields{"ed25519:PHONE": ed, "curve25519:PHONE": curve}
	}
	for _, tc := range []struct {
		name string
		raw  json.RawMessage
		want error // nil: accepted
	}{
		{"unknown fields survive and are signed", resigned(with(good, "org.example.x", fields{"a": []int{1, 2}})), nil},
		{"unsigned is not covered", with(good, "unsigned", fields{"device_display_name": "x", "n": 1.5}).raw(), nil},
		{"dehydrated", resigned(with(good, "dehydrated", true)), nil},
		{"padded keys", resigned(with(good, "keys", keys(key.public+"=", newCurve("phone")+"="))), nil},
		{"a field was added after signing", with(good, "x", 1).raw(), ErrSignature},
		{"dehydrated was taken out after signing", func() json.RawMessage {
			f := with(good, "dehydrated", true)
			delete(f, "signatures")
			f = f.sign(alice, "PHONE", key)
			delete(f, "dehydrated")
			return f.raw()
		}(), ErrSignature},
		{"no signature", func() json.RawMessage { f := maps.Clone(good); delete(f, "signatures"); return f.raw() }(), ErrSignature},
		{"signed by another key", with(good, "keys", keys(newSigner("other").public, newCurve("phone"))).raw(), ErrSignature},
		{"other user", resigned(with(good, "user_id", bob)), ErrMalformed},
		{"other device", resigned(with(good, "device_id", "OTHER")), ErrMalformed},
		{"no user", resigned(with(good, "user_id", nil)), ErrMalformed},
		{"no algorithms", resigned(with(good, "algorithms", nil)), ErrMalformed},
		{"an algorithm that is a number", resigned(with(good, "algorithms", []any{1})), ErrMalformed},
		{"keys are a list", resigned(with(good, "keys", []string{})), ErrMalformed},
		{"a key that is a number", resigned(with(good, "keys", keys(1, newCurve("phone")))), ErrMalformed},
		{"dehydrated is a text", resigned(with(good, "dehydrated", "yes")), ErrMalformed},
		{"a number that cannot be signed", resigned(with(good, "x", 1.5)), ErrMalformed},
		{"a number that is too large", resigned(with(good, "x", 1<<53)), ErrMalformed},
		{"all-zero Curve25519 key", resigned(with(good, "keys", keys(key.public, strings.Repeat("A", 43)))), ErrBadKey},
		{"all-zero Ed25519 key", with(good, "keys", keys(strings.Repeat("A", 43), newCurve("phone"))).raw(), ErrBadKey},
		{"signatures of the wrong type", with(good, "signatures", fields{alice.String(): []int{}}).raw(), ErrMalformed},
		{"null", json.RawMessage("null"), ErrMalformed},
		{"nothing", nil, ErrMalformed},
		{"list", json.RawMessage("[]"), ErrMalformed},
		{"cut off", good.raw()[:40], ErrMalformed},
		{"two objects", append(good.raw(), "{}"...), ErrMalformed},
		{"duplicate name", bytes.Replace(good.raw(), []byte(`{"algorithms"`), []byte(`{"user_id":"@bob:example.org","algorithms"`), 1), ErrMalformed},
		{"duplicate name, escaped", bytes.Replace(good.raw(), []byte(`{"algorithms"`), []byte(`{"user\u005fid":"@bob:example.org","algorithms"`), 1), ErrMalformed},
		{"duplicate name inside", resigned(with(good, "x", json.RawMessage(`{"a":1,"a":2}`))), ErrMalformed},
		{"invalid UTF-8", bytes.Replace(good.raw(), []byte(`{"algorithms"`), []byte("{\"x\":\"\xff\",\"algorithms\""), 1), ErrMalformed},
		{"lone surrogate", bytes.Replace(good.raw(), []byte(`{"algorithms"`), []byte(`{"x":"\ud800","algorithms"`), 1), ErrMalformed},
		{"too deep", with(good, "unsigned", json.RawMessage(strings.Repeat("[", 20)+strings.Repeat("]", 20))).raw(), ErrMalformed},
		{"10,000 deep", json.RawMessage(strings.Repeat(`{"a":`, 10000)), ErrMalformed},
		{"too large", with(good, "unsigned", strings.Repeat("x", maxObject)).raw(), ErrMalformed},
	} {
		if _, err := ParseDevice(tc.raw, alice, "PHONE"); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
	}
}

// Requirement 2.9: a signature may be padded.
func TestParseDevicePaddedSignature(t *testing.T) {
	t.Parallel()
	f := deviceFields(alice, "PHONE", "phone")
	sigs, ok := f["signatures"].(map[id.UserID]map[string]string)
	if !ok {
		t.Fatal("no signatures")
	}
	f["signatures"] = fields{alice.String(): fields{"ed25519:PHONE": sigs[alice]["ed25519:PHONE"] + "=="}}
	if _, err := ParseDevice(f.raw(), alice, "PHONE"); err != nil {
		t.Error(err)
	}
}

// Requirements 1.19, 1.22: devices without keys are listed by some servers; they break
// nothing and are not usable.
func TestParseDeviceWithoutKeys(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]fields{
		"impersonated (MSC4350)": {
			"user_id": alice, "device_id": "GHOST", "algorithms": []string{}, "keys": fields{},
			"impersonator": fields{"user_id": bob, "device_id": "BRIDGE"},
		},
		"keys of another device": {
			"user_id": alice, "device_id": "GHOST", "algorithms": []string{},
			"keys": fields{"ed25519:OTHER": newSigner("x").public},
		},
		"no signing key": {
			"user_id": alice, "device_id": "GHOST", "algorithms": []string{}, "keys": fields{"curve25519:GHOST": newCurve("x")},
		},
	} {
		d, err := ParseDevice(raw.raw(), alice, "GHOST")
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d.Usable() || d.Fault != FaultNoKeys || d.SignedBy(newSigner("x").public) {
			t.Errorf("%s: it is usable: %+v", name, d)
		}
	}
}

func TestDeviceSignedBy(t *testing.T) {
	t.Parallel()
	a, b := newPerson(alice, "1"), newPerson(bob, "1")
	old := newPerson(alice, "0")
	parse := func(f fields) Device {
		t.Helper()
		d, err := ParseDevice(f.raw(), alice, "PHONE")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	phone := a.device("PHONE")
	for _, tc := range []struct {
		name string
		dev  fields
		want bool
	}{
		{"current self-signing key", a.signedDevice("PHONE"), true},
		{"nobody", phone, false},
		{"the self-signing key before", phone.sign(alice, old.selfSign.public.String(), old.selfSign), false},
		{"the master key", phone.sign(alice, a.master.public.String(), a.master), false},
		{"the user-signing key", phone.sign(alice, a.userSign.public.String(), a.userSign), false},
		{"another user's self-signing key", phone.sign(bob, b.selfSign.public.String(), b.selfSign), false},
		{"the right key in another user's name", phone.sign(bob, a.selfSign.public.String(), a.selfSign), false},
		{"another key under the right key's name", phone.sign(alice, a.selfSign.public.String(), b.selfSign), false},
		{"the right key under a padded name", phone.sign(alice, a.selfSign.public.String()+"=", a.selfSign), true},
	} {
		d := parse(tc.dev)
		if got := d.SignedBy(a.selfSign.public); got != tc.want {
			t.Errorf("signed by %s: got %v", tc.name, got)
		}
	}
	d := parse(a.signedDevice("PHONE"))
	if d.SignedBy("") {
		t.Error("signed by no key")
	}
}

// Attack A10, requirements 1.25 and 1.26: a device whose ID is a cross-signing key, so
// that "ed25519:<device>" and "ed25519:<key>" are one name, or whose key is one.
// [refused, and its owner cannot be verified]
func TestDeviceNamedLikeAnIdentityKey(t *testing.T) {
	t.Parallel()
	p := newPerson(alice, "1")
	self := p.selfSign.public.String()
	asDevice := func(device id.DeviceID, key signer) fields {
		return fields{
			"user_id": alice, "device_id": device, "algorithms": []id.Algorithm{id.AlgorithmOlmV1, id.AlgorithmMegolmV1},
			"keys": fields{"ed25519:" + device.String(): key.public, "curve25519:" + device.String(): newCurve("evil")},
		}.sign(alice, device.String(), key)
	}
	for name, f := range map[string]fields{
		"ID is the self-signing key":         asDevice(id.DeviceID(self), newSigner("evil")),
		"ID is the self-signing key, padded": asDevice(id.DeviceID(self+"="), newSigner("evil")),
		"ID is the master key":               asDevice(id.DeviceID(p.master.public), newSigner("evil")),
		"both are the self-signing key":      asDevice(id.DeviceID(self), p.selfSign),
		"key is the self-signing key":        asDevice("EVIL", p.selfSign),
	} {
		device := f.id()
		d, err := ParseDevice(f.raw(), alice, device)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d.SignedBy(p.selfSign.public) {
			t.Errorf("%s: it counts as signed by its owner", name)
		}
		u := newEntry(bob, store1(alice), p.identity(t), []Device{d}).user
		if u.Devices[0].Usable() || u.Devices[0].Fault != FaultIdentityKey || !u.KeyCollision() {
			t.Errorf("%s: fault %v, collision %v", name, u.Devices[0].Fault, u.KeyCollision())
		}
	}
}

// Attack A16: two devices claim one key. [neither is usable, neither is found by it]
func TestSharedKeys(t *testing.T) {
	t.Parallel()
	p := newPerson(alice, "1")
	parse := func(f fields) Device {
		d, err := ParseDevice(f.raw(), alice, f.id())
		if err != nil {
			t.Fatal(err)
		}
		d.Signed = true
		return d
	}
	one, two, three := parse(deviceFields(alice, "ONE", "same")), parse(deviceFields(alice, "TWO", "same")), parse(deviceFields(alice, "THREE", "other"))
	u := newEntry(bob, store1(alice), p.identity(t), []Device{one, two, three}).user
	for _, d := range u.Devices {
		if d.Usable() != (d.DeviceID == "THREE") {
			t.Errorf("%s: usable %v", d.DeviceID, d.Usable())
		}
	}
	if u.DeviceByCurve25519(one.Curve25519) != nil {
		t.Error("a key that two devices claim names one of them")
	}
	if d := u.DeviceByCurve25519(three.Curve25519); d == nil || d.DeviceID != "THREE" {
		t.Errorf("got %v", d)
	}
	if u.Device("TWO") == nil || u.Device("NONE") != nil {
		t.Error("devices are not found by their ID")
	}
}

func TestCompareOwn(t *testing.T) {
	t.Parallel()
	p := newPerson(alice, "1")
	ours, err := ParseDevice(p.signedDevice("OURS").raw(), alice, "OURS")
	if err != nil {
		t.Fatal(err)
	}
	signed := ours
	signed.Signed = true
	row := store1(alice)
	user := func(devices ...Device) *User { return newEntry(alice, row, Identity{}, devices).user }
	for _, tc := range []struct {
		name string
		user *User
		ed   id.Ed25519
		want OwnDevice
	}{
		{"nothing known", nil, ours.Ed25519, OwnDeviceUnknown},
		{"absent", user(), ours.Ed25519, OwnDeviceAbsent},
		{"other keys (requirement 2.10)", user(signed), newSigner("x").public, OwnDeviceForeign},
		{"unsigned", user(ours), ours.Ed25519, OwnDeviceUnsigned},
		{"signed", user(signed), ours.Ed25519, OwnDeviceSigned},
	} {
		if got := tc.user.CompareOwn("OURS", tc.ed, ours.Curve25519); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func FuzzParseDevice(f *testing.F) {
	p := newPerson(alice, "1")
	f.Add([]byte(p.signedDevice("PHONE").raw()))
	f.Add([]byte(`{"user_id":"@alice:example.org","device_id":"PHONE","algorithms":[],"keys":{}}`))
	f.Add([]byte(`{"user_id":"@alice:example.org","user_id":"x"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := ParseDevice(raw, alice, "PHONE")
		if err != nil {
			return
		}
		d.SignedBy(p.selfSign.public)
		if d.Usable() && (len(d.Ed25519.Bytes()) != 32 || len(d.Curve25519.Bytes()) != 32) {
			t.Fatalf("usable without keys: %s", raw)
		}
		// What is stored must be readable again, with the same result.
		again, _, err := readDevice(d.Raw, alice, "PHONE")
		if err != nil || again.Ed25519 != d.Ed25519 && d.Ed25519 != "" {
			t.Fatalf("read again: %v", err)
		}
	})
}
