package trustcache

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// override makes or removes the exception for a device of bob's.
func (x *tracking) override(device id.DeviceID, o Override) {
	x.t.Helper()
	if err := x.SetOverride(By(context.Background(), "MINE"), bob, device, o); err != nil {
		x.t.Fatal(err)
	}
}

// listed returns the exceptions as they are listed.
func (x *tracking) listed() []string {
	x.t.Helper()
	all, err := x.Overrides(context.Background())
	if err != nil {
		x.t.Fatal(err)
	}
	out := []string{}
	for _, d := range all {
		said := fmt.Sprint(d.DeviceID, " ", d.Override)
		if len(d.Raw) == 0 {
			said += ", gone"
		}
		out = append(out, said)
	}
	return out
}

// Attack: bob's homeserver does not show a device that alice distrusts, in one answer, and then shows it
// again; or it shows another device under its ID in between, so that the first is forgotten for that
// one. It is distrusted whenever it is shown, also after a restart, and another device is not.
func TestDistrustOutlivesItsDevice(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	p := newPerson(bob, "1")
	odd, other := p.signedDevice("ODD"), deviceFields(bob, "ODD", "other keys").sign(bob, p.selfSign.public.String(), p.selfSign)
	fine := p.signedDevice("FINE")
	srv.publish(p, odd, fine)
	x := track(t, srv, mem)
	x.lookup(bob)
	x.override("ODD", OverrideDistrusted)
	made := x.lookup(bob).Device("ODD").Made
	restart := func() {
		x.Close()
		x = track(t, srv, mem)
	}
	for range 2 {
		srv.publish(p, fine)
		if u := x.update(bob); u.Device("ODD") != nil || len(u.Gone) != 1 {
			t.Fatalf("left out: %v, %+v", ids(u), u.Gone)
		}
		want(t, "left out", []string{"ODD distrusted, gone"}, x.listed())
		restart()
		srv.publish(p, fine, other)
		if u := x.update(bob); u.Device("ODD").Override != OverrideNone || len(u.Gone) != 1 {
			t.Fatalf("another with its ID: %v, %+v", u.Device("ODD").Override, u.Gone)
		}
		restart()
		srv.publish(p, fine)
		x.update(bob)
		srv.publish(p, fine, odd)
		u := x.update(bob)
		d := u.Device("ODD")
		if d.Override != OverrideDistrusted || d.Made.By != "MINE" || !d.Made.At.Equal(made.At) || len(u.Gone) != 0 {
			t.Fatalf("shown again: %+v, %+v", d, u.Gone)
		}
		if got := Share(ShareInput{User: u, Device: d, SenderUser: alice}); got.Outcome == ShareGive {
			t.Error("it is given keys")
		}
		want(t, "shown again", []string{"ODD distrusted"}, x.listed())
		restart()
		if d := x.lookup(bob).Device("ODD"); d.Override != OverrideDistrusted {
			t.Fatalf("after a restart: %v", d.Override)
		}
	}
}

// Attack: the homeserver leaves a distrusted device out of its answers, so that what the device said, or
// says over an Olm session that it has, is judged without the exception: it was signed.
func TestDistrustedDeviceThatIsNotShown(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	p := newPerson(bob, "1")
	srv.publish(p, p.signedDevice("ODD"))
	x := track(t, srv, mem)
	odd := x.lookup(bob).Device("ODD")
	owner := Owner{
		UserID: bob, DeviceID: "ODD", Curve25519: odd.Curve25519, Ed25519: odd.Ed25519, Signed: true, Accepted: true,
		Master: p.master.public,
	}
	judged := func(u *User) Deliver {
		return Judge(JudgeInput{Owner: owner, OwnerUser: u, Sender: bob, Own: alice, Source: store.SourceDirect}).Deliver
	}
	if u := x.lookup(bob); judged(u) != DeliverClear || ToDevice("m.dummy", owner, u, ModeEnforce) != ToDeviceProcess {
		t.Fatal("nothing is shown from the start")
	}
	x.override("ODD", OverrideDistrusted)
	srv.publish(p)
	u := x.update(bob)
	if judged(u) != DeliverWithheld {
		t.Error("its message is shown")
	}
	if ToDevice("m.dummy", owner, u, ModeEnforce) != ToDeviceDrop {
		t.Error("its message to a device is processed")
	}
	owner.Ed25519, owner.Curve25519 = newSigner("other keys").public, newCurve("other keys")
	if judged(u) != DeliverClear {
		t.Error("the message of another device with its ID is not shown")
	}
}

// A distrust can be taken back while its device is not shown, and then does not come back with it; it
// cannot be turned into trust in a device that nobody shows. All devices with the ID are meant.
func TestTakeBackADistrust(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	p := newPerson(bob, "1")
	srv.publish(p, p.signedDevice("ODD"), p.signedDevice("EVEN"))
	x := track(t, srv, mem)
	x.lookup(bob)
	x.override("ODD", OverrideDistrusted)
	x.override("EVEN", OverrideDistrusted)
	srv.publish(p)
	x.update(bob)
	if err := x.SetOverride(t.Context(), bob, "ODD", OverrideTrusted); !errors.Is(err, ErrNoDevice) {
		t.Errorf("trusted: %v", err)
	}
	x.override("ODD", OverrideDistrusted)
	want(t, "as before", []string{"EVEN distrusted, gone", "ODD distrusted, gone"}, x.listed())

	srv.publish(p, deviceFields(bob, "ODD", "other keys"))
	x.update(bob)
	x.override("ODD", OverrideTrusted)
	want(t, "with another", []string{"EVEN distrusted, gone", "ODD distrusted, gone", "ODD trusted"}, x.listed())
	x.override("ODD", OverrideNone)
	want(t, "taken back", []string{"EVEN distrusted, gone"}, x.listed())
	if ev := x.last(EventOverride); ev.Override != OverrideNone || len(ev.Added) != 1 || ev.Added[0] != "ODD" {
		t.Errorf("reported: %+v", ev)
	}
	srv.publish(p)
	x.update(bob)
	x.override("EVEN", OverrideNone)
	want(t, "taken back", []string{}, x.listed())
	if err := x.SetOverride(t.Context(), bob, "EVEN", OverrideNone); !errors.Is(err, ErrNoDevice) {
		t.Errorf("twice: %v", err)
	}
	srv.publish(p, p.signedDevice("ODD"), p.signedDevice("EVEN"))
	if u := x.update(bob); u.Device("ODD").Override != OverrideNone || u.Device("EVEN").Override != OverrideNone {
		t.Error("they are distrusted still")
	}
}

// An own session ends, whose device was distrusted; a homeserver that shows the device again has not
// made it a new one.
func TestDistrustOfAnEndedSession(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	me := newPerson(alice, "1")
	srv.publish(me, me.signedDevice("LOST"))
	x := track(t, srv, mem)
	x.lookup(alice)
	if err := x.SetOverride(t.Context(), alice, "LOST", OverrideDistrusted); err != nil {
		t.Fatal(err)
	}
	if err := x.Ended(t.Context(), "LOST"); err != nil {
		t.Fatal(err)
	}
	want(t, "ended", []string{"LOST distrusted, gone"}, x.listed())
	if u := x.update(alice); u.Device("LOST").Override != OverrideDistrusted {
		t.Error("it is trusted again")
	}
}

// Of the distrusted devices of one user that are not shown, a bounded number is kept, the newest.
func TestDistrustsAreBounded(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	p := newPerson(bob, "1")
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	x := track(t, srv, mem, func(o *Options) { o.Now = func() time.Time { return now } })
	devices := make([]fields, maxGone+2)
	for i := range devices {
		devices[i] = p.device(id.DeviceID(fmt.Sprintf("D%03d", len(devices)-i)))
	}
	srv.publish(p, devices...)
	x.lookup(bob)
	for _, d := range devices {
		now = now.Add(time.Second)
		x.override(d.id(), OverrideDistrusted)
	}
	srv.publish(p, devices[0])
	x.update(bob)
	srv.publish(p)
	u := x.update(bob)
	if len(u.Gone) != maxGone || len(x.listed()) != maxGone {
		t.Fatalf("%d are kept, %d are listed", len(u.Gone), len(x.listed()))
	}
	srv.publish(p, devices...)
	u = x.update(bob)
	for i, d := range devices {
		if got := u.Device(d.id()).Override; (got == OverrideDistrusted) != (i >= 2) {
			t.Errorf("number %d is %v", i, got)
		}
	}
}
