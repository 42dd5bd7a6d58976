package trustcache

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"maunium.net/go/mautrix/id"
)

// Requirement 4.8 and attack T19 ("removed identities"): leaving keys out, or showing wrong
// ones, erases and changes nothing.
func TestIdentityIsNotErased(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	p, p2 := newPerson(bob, "1"), newPerson(bob, "2")
	srv.publish(p, p.signedDevice("PHONE"))
	first := x.lookup(bob)
	for name, edit := range map[string]func(*QueryResult){
		"no cross-signing keys": func(r *QueryResult) {
			delete(r.MasterKeys, bob)
			delete(r.SelfSigningKeys, bob)
		},
		"no self-signing key": func(r *QueryResult) { delete(r.SelfSigningKeys, bob) },
		"null":                func(r *QueryResult) { r.MasterKeys[bob] = json.RawMessage("null") },
		"self-signing key of another identity": func(r *QueryResult) {
			r.SelfSigningKeys[bob] = p2.bySelf(p2.selfSigningFields(), p2.master)
		},
		"another identity with a self-signing key it did not sign": func(r *QueryResult) {
			r.MasterKeys[bob] = p2.masterFields().raw()
		},
		"rubbish":         func(r *QueryResult) { r.MasterKeys[bob] = json.RawMessage(`{"keys":`) },
		"somebody else's": func(r *QueryResult) { r.MasterKeys[bob] = newPerson(carol, "1").masterFields().raw() },
	} {
		srv.publish(p, p.signedDevice("PHONE"))
		srv.edit(edit)
		u := x.update(bob)
		if u.State() != PinPinned || u.Master != first.Master || u.SelfSigning != first.SelfSigning {
			t.Errorf("%s: %v, %+v", name, u.State(), u.Pin)
		}
		want(t, name+": devices", []string{"PHONE+"}, ids(u))
	}
	if x.last(EventIdentityRefused).UserID != bob {
		t.Error("nothing was said of it")
	}
	// A new master key alone is a change all the same (requirement 1.24), and signs nobody.
	srv.edit(func(r *QueryResult) {
		r.MasterKeys[bob] = p2.masterFields().raw()
		delete(r.SelfSigningKeys, bob)
	})
	u := x.update(bob)
	if u.State() != PinChanged || u.SelfSigning != "" {
		t.Errorf("master key alone: %v", u.State())
	}
	want(t, "devices of a master key alone", []string{"PHONE"}, ids(u))
}

// Requirement 12.14: the devices follow the self-signing key.
func TestSelfSigningKeyChanges(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	p := newPerson(bob, "1")
	srv.publish(p, p.signedDevice("OLD"), p.device("OTHER"))
	x.lookup(bob)
	next := p
	next.selfSign = newSigner("a new self-signing key")
	srv.publish(next, p.signedDevice("OLD"), next.signedDevice("OTHER"))
	u := x.update(bob)
	if u.State() != PinPinned {
		t.Errorf("the same master key: %v", u.State())
	}
	want(t, "devices", []string{"OLD", "OTHER+"}, ids(u))

	// Attack T20 ("old self-signing keys"): one that was replaced does not come back.
	srv.publish(p, p.signedDevice("OLD"), p.signedDevice("OTHER"), p.signedDevice("EVIL"))
	for range 2 {
		u = x.update(bob)
		if u.SelfSigning != next.selfSign.public || x.last(EventIdentityRefused).UserID != bob {
			t.Error("an old self-signing key came back")
		}
		want(t, "devices", []string{"EVIL", "OLD", "OTHER"}, ids(u))
		x = track(t, srv, mem)
	}
	x = track(t, srv, mem)
	x.lookup(bob)

	// Nor by way of another identity that the homeserver shows in between. The newest key
	// of the master key does.
	srv.publish(newPerson(bob, "in between"), p.signedDevice("OLD"))
	if u = x.update(bob); u.State() != PinChanged {
		t.Errorf("another identity: %v", u.State())
	}
	srv.publish(p, p.signedDevice("OLD"), p.signedDevice("EVIL"))
	if u = x.update(bob); u.SelfSigning == p.selfSign.public || u.State() != PinChanged {
		t.Error("an old self-signing key came back by way of another identity")
	}
	want(t, "devices", []string{"EVIL", "OLD"}, ids(u))
	srv.publish(next, p.signedDevice("OLD"), next.signedDevice("OTHER"))
	if u = x.update(bob); u.SelfSigning != next.selfSign.public || u.State() != PinPinned {
		t.Errorf("the newest self-signing key does not come back: %v", u.State())
	}
	want(t, "devices", []string{"OLD", "OTHER+"}, ids(u))

	// Nor one that was replaced while another identity was shown.
	third := next
	third.selfSign = newSigner("a third self-signing key")
	srv.publish(newPerson(bob, "in between"))
	x.update(bob)
	srv.publish(third, third.signedDevice("OTHER"))
	x.update(bob)
	srv.publish(next, next.signedDevice("OTHER"), next.signedDevice("EVIL"))
	if u = x.update(bob); u.SelfSigning != third.selfSign.public {
		t.Error("a self-signing key came back that was replaced unseen")
	}
	srv.publish(newPerson(bob, "in between"))
	x.update(bob)
	srv.publish(next, next.signedDevice("OTHER"), next.signedDevice("EVIL"))
	if u = x.update(bob); u.SelfSigning == next.selfSign.public {
		t.Error("a self-signing key came back that was replaced unseen, by way of another identity")
	}
	srv.publish(third, third.signedDevice("OTHER"))
	x.update(bob)
	next = third

	// The same self-signing key under another master key is a change.
	moved := next
	moved.master = newSigner("a new master key")
	srv.publish(moved, p.signedDevice("OLD"), next.signedDevice("OTHER"))
	if u = x.update(bob); u.State() != PinChanged {
		t.Errorf("another master key: %v", u.State())
	}
	want(t, "devices", []string{"OLD", "OTHER+"}, ids(u))
}

// Requirement 2.8: a living device keeps its keys; one that was deleted and made again
// is another. An exception ends with its device.
func TestDeviceUpdates(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	p := newPerson(bob, "1")
	srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("OTHER"))
	first := *x.lookup(bob).Device("PHONE")
	if err := x.SetOverride(ctx, bob, "PHONE", OverrideTrusted); err != nil {
		t.Fatal(err)
	}
	if err := x.SetOverride(ctx, bob, "NONE", OverrideTrusted); !errors.Is(err, ErrNoDevice) {
		t.Errorf("got %v", err)
	}
	replaced := deviceFields(bob, "PHONE", "attacker")
	for name, raw := range map[string]fields{
		"another key":                        replaced,
		"another key, signed by the owner":   replaced.sign(bob, p.selfSign.public.String(), p.selfSign),
		"no signature":                       with(p.device("PHONE"), "signatures", fields{}),
		"no keys":                            {"user_id": bob, "device_id": "PHONE", "algorithms": []string{}, "keys": fields{}},
		"another user's":                     deviceFields(carol, "PHONE", "c"),
		"rubbish":                            {"device_id": "PHONE"},
		"another curve key under the old ed": resign(p, "PHONE", newCurve("attacker")),
	} {
		srv.publish(p, raw, p.signedDevice("OTHER"))
		u := x.update(bob)
		got := u.Device("PHONE")
		if got == nil || got.Ed25519 != first.Ed25519 || got.Curve25519 != first.Curve25519 || !got.Signed || got.Override != OverrideTrusted {
			t.Errorf("%s: %+v", name, got)
		}
		want(t, name, []id.DeviceID{"PHONE"}, x.last(EventDevicesRefused).Refused)
	}
	if y := track(t, srv, mem).lookup(bob); y.Device("PHONE").Override != OverrideTrusted {
		t.Error("the exception did not survive a restart")
	}
	overrides, err := x.Overrides(ctx)
	if err != nil || len(overrides) != 1 || overrides[0].DeviceID != "PHONE" || overrides[0].Override != OverrideTrusted {
		t.Errorf("exceptions: %+v, %v", overrides, err)
	}

	srv.publish(p, p.signedDevice("OTHER"))
	want(t, "deleted", []string{"OTHER+"}, ids(x.update(bob)))
	srv.publish(p, replaced.sign(bob, p.selfSign.public.String(), p.selfSign), p.signedDevice("OTHER"))
	u := x.update(bob)
	want(t, "made again", []string{"OTHER+", "PHONE+"}, ids(u))
	if got := u.Device("PHONE"); got.Ed25519 == first.Ed25519 || got.Override != OverrideNone {
		t.Errorf("made again: %+v", got)
	}
	if err := x.SetOverride(ctx, bob, "PHONE", OverrideDistrusted); err != nil {
		t.Fatal(err)
	}
	if u = x.lookup(bob); u.Device("PHONE").Override != OverrideDistrusted {
		t.Error("an exception is not effective at once")
	}
	if err := x.SetOverride(ctx, bob, "PHONE", OverrideNone); err != nil || x.lookup(bob).Device("PHONE").Override != OverrideNone {
		t.Errorf("an exception cannot be taken back: %v", err)
	}
}

// Requirement 2.8 is about living devices: one of the own devices whose session has ended
// is no more, also when nobody asked before its ID was used again.
func TestEndedDevices(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	p := newPerson(alice, "1")
	srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("OTHER"))
	first := *x.lookup(alice).Device("PHONE")
	if err := x.Ended(t.Context(), "PHONE", "NEVER SEEN"); err != nil {
		t.Fatal(err)
	}
	want(t, "ended", []id.DeviceID{"PHONE"}, x.last(EventDevices).Removed)
	own, err := x.Own(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want(t, "left", []string{"OTHER+"}, ids(own))
	srv.publish(p, deviceFields(alice, "PHONE", "again").sign(alice, p.selfSign.public.String(), p.selfSign), p.signedDevice("OTHER"))
	for name, y := range map[string]*tracking{"here": x, "after a restart": track(t, srv, mem)} {
		if got := y.update(alice).Device("PHONE"); got == nil || got.Ed25519 == first.Ed25519 || !got.Signed {
			t.Errorf("%s: made again: %+v", name, got)
		}
	}
	if err := x.Ended(t.Context()); err != nil {
		t.Error(err)
	}
}

// resign returns a device of p with its old Ed25519 key and another Curve25519 key.
func resign(p person, device id.DeviceID, curve id.Curve25519) fields {
	key := newSigner(string(p.user) + " " + device.String())
	f := with(p.device(device), "keys", fields{
		"ed25519:" + device.String(): key.public, "curve25519:" + device.String(): curve,
	})
	delete(f, "signatures")
	return f.sign(p.user, device.String(), key).sign(p.user, p.selfSign.public.String(), p.selfSign)
}

// Requirements 1.19, 1.22: devices without keys do not exist for us and break nothing.
func TestDevicesThatDoNotExist(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	p := newPerson(bob, "1")
	srv.publish(
		p, p.signedDevice("PHONE"),
		fields{"user_id": bob, "device_id": "GHOST", "algorithms": []string{}, "keys": fields{}, "impersonator": fields{"user_id": carol}},
		fields{"device_id": "RUBBISH"},
	)
	want(t, "devices", []string{"PHONE+"}, ids(x.lookup(bob)))
	want(t, "refused", []id.DeviceID{"RUBBISH"}, x.last(EventDevicesRefused).Refused)
}

// Requirement 1.26: a user with a device named like a key cannot be verified.
func TestCollisionsAreNotVerified(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	me, p := newPerson(alice, "1"), newPerson(bob, "1")
	srv.publish(me)
	x.verify(me)
	srv.publish(p, p.device(id.DeviceID(p.master.public)))
	x.lookup(bob)
	if err := x.SetVerified(context.Background(), bob, p.masterSignedBy(me)); !errors.Is(err, ErrKeyCollision) {
		t.Errorf("got %v", err)
	}
}

// Attack 62: what one user costs is bounded; known and signed devices come first.
func TestManyDevices(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem, func(o *Options) { o.MaxDevices = 3 })
	p := newPerson(bob, "1")
	srv.publish(p, p.device("Y"))
	x.lookup(bob)
	srv.publish(p, p.device("A"), p.device("B"), p.device("C"), p.device("Y"), p.signedDevice("Z"))
	want(t, "devices", []string{"A", "Y", "Z+"}, ids(x.update(bob)))
}
