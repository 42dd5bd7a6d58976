package trustcache

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// Attack A8: the homeserver swaps a pinned user's identity. [blocked until acknowledged]
func TestIdentityChange(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	me, p, p2, p3 := newPerson(alice, "1"), newPerson(bob, "1"), newPerson(bob, "2"), newPerson(bob, "3")
	srv.publish(me)
	srv.publish(p, p.signedDevice("PHONE"))
	own := x.lookup(alice)
	x.lookup(bob)
	srv.publish(p2, p2.signedDevice("PHONE"))
	u := x.update(bob)
	if u.State() != PinChanged || u.PinnedMaster != p.master.public || u.Current != p2.master.public {
		t.Fatalf("got %v, %+v", u.State(), u.Pin)
	}
	if d := Gate([]*User{own, u}, ModeEnforce); d.Outcome != GateBlocked || d.Blocked[0].Master != p2.master.public {
		t.Errorf("the gate says %+v", d)
	}
	for i := range u.Devices {
		if d := Share(ShareInput{User: u, Device: &u.Devices[i], SenderUser: alice}); d.Outcome == ShareGive {
			t.Error("a device of a changed identity is given keys")
		}
	}

	// The race between acknowledging and a second change is decided by the key.
	srv.publish(p3, p3.signedDevice("PHONE"))
	x.update(bob)
	if err := x.Acknowledge(ctx, bob, p2.master.public); !errors.Is(err, ErrNotCurrent) {
		t.Errorf("got %v", err)
	}
	if err := x.Acknowledge(ctx, bob, p3.master.public); err != nil {
		t.Error(err)
	}
	if err := x.Acknowledge(ctx, bob, p3.master.public); err != nil {
		t.Errorf("twice: %v", err)
	}
	if u = x.lookup(bob); u.State() != PinPinned || Gate([]*User{own, u}, ModeEnforce).Outcome != GateAllow {
		t.Errorf("acknowledged: %v", u.State())
	}
	if u := track(t, srv, mem).lookup(bob); u.State() != PinPinned || u.PinnedMaster != p3.master.public {
		t.Errorf("after a restart: %v", u.State())
	}
	want(t, "history", []string{"first_seen", "changed", "self_signing_left", "changed", "self_signing_left", "acknowledged"}, mem.kinds(bob))
	if err := x.Acknowledge(ctx, carol, p3.master.public); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("nobody: %v", err)
	}
	if err := x.Withdraw(ctx, bob); !errors.Is(err, ErrNothingToWithdraw) {
		t.Errorf("got %v", err)
	}
}

func TestAutomaticAcknowledgement(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem, func(o *Options) { o.AcknowledgeUnverified = func() bool { return true } })
	me, me2 := newPerson(alice, "1"), newPerson(alice, "2")
	p, p2, q, q2 := newPerson(bob, "1"), newPerson(bob, "2"), newPerson(carol, "1"), newPerson(carol, "2")
	srv.publish(me)
	x.verify(me)
	srv.publish(p)
	srv.publish(q)
	srv.edit(func(r *QueryResult) { r.MasterKeys[carol] = q.masterSignedBy(me) })
	x.lookups(bob, carol)
	srv.publish(p2)
	srv.publish(q2)
	if u := x.update(bob); u.State() != PinPinned || u.PinnedMaster != p2.master.public {
		t.Errorf("never verified: %v", u.State())
	}
	want(t, "history", []string{"first_seen", "changed", "acknowledged_by_policy", "self_signing_left"}, mem.kinds(bob))
	if u := x.update(carol); u.State() != PinVerificationLost {
		t.Errorf("verified: %v", u.State())
	}
	srv.publish(me2)
	if u := x.update(alice); u.State() != PinVerificationLost {
		t.Errorf("ourselves: %v", u.State())
	}
}

// verify makes the account's own identity verified.
func (x *tracking) verify(me person) {
	x.t.Helper()
	x.lookup(me.user)
	if ok, err := x.SetOwnIdentity(context.Background(), me.master.public); err != nil || !ok {
		x.t.Fatalf("verify the own identity: %v %v", ok, err)
	}
}

// A verification through the tracker: verified by our signature, lost with a change of
// theirs or of ours, regained by verification or withdrawal only.
func TestVerification(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	me, me2 := newPerson(alice, "1"), newPerson(alice, "2")
	p, q := newPerson(bob, "1"), newPerson(carol, "1")
	srv.publish(me)
	srv.publish(p)
	srv.publish(q)
	srv.edit(func(r *QueryResult) { r.MasterKeys[bob] = p.masterSignedBy(me) })

	if u := x.lookups(alice, bob, carol)[bob]; u.State() != PinPinned {
		t.Errorf("signed by an identity that is not verified: %v", u.State())
	}
	x.verify(me)
	if u := x.lookup(bob); u.State() != PinVerified {
		t.Errorf("after our own verification: %v", u.State())
	}
	// Our signature stays although the homeserver leaves it out.
	srv.publish(p)
	if u := x.update(bob); u.State() != PinVerified {
		t.Errorf("signature left out: %v", u.State())
	}

	// Verifying somebody here.
	if err := x.SetVerified(ctx, carol, q.masterFields().raw()); !errors.Is(err, ErrSignature) {
		t.Errorf("without signature: %v", err)
	}
	if err := x.SetVerified(ctx, carol, newPerson(carol, "2").masterSignedBy(me)); !errors.Is(err, ErrNotCurrent) {
		t.Errorf("another identity: %v", err)
	}
	if err := x.SetVerified(ctx, carol, json.RawMessage(`{}`)); !errors.Is(err, ErrMalformed) {
		t.Errorf("rubbish: %v", err)
	}
	if err := x.SetVerified(ctx, carol, q.masterSignedBy(me)); err != nil {
		t.Error(err)
	}
	if u := x.update(carol); u.State() != PinVerified {
		t.Errorf("verified here: %v", u.State())
	}

	// Our identity is reset elsewhere: every verification is lost, and says why.
	srv.publish(me2)
	if u := x.update(alice); u.State() != PinVerificationLost {
		t.Errorf("ourselves: %v", u.State())
	}
	got := x.lookups(bob, carol)
	if got[bob].State() != PinVerificationLost || got[carol].State() != PinVerificationLost {
		t.Errorf("others: %v, %v", got[bob].State(), got[carol].State())
	}
	if ev := x.last(EventPin); !ev.ByOwnChange || ev.Effect != EffectVerificationLost {
		t.Errorf("the last event is %+v", ev)
	}
	if err := x.SetVerified(ctx, bob, p.masterSignedBy(me2)); !errors.Is(err, ErrNotVerified) {
		t.Errorf("with an identity that is not ours: %v", err)
	}
	want(t, "queries: nobody was asked about again", 4, srv.count())

	// Recovering with the new key heals us; contacts want a signature of the new one.
	if ok, err := x.SetOwnIdentity(ctx, me2.master.public); !ok || err != nil {
		t.Errorf("recovered: %v %v", ok, err)
	}
	if u := x.lookup(bob); u.State() != PinVerificationLost {
		t.Errorf("bob after recovery: %v", u.State())
	}
	if err := x.Acknowledge(ctx, bob, p.master.public); !errors.Is(err, ErrVerificationLost) {
		t.Errorf("acknowledging: %v", err)
	}
	if err := x.Withdraw(ctx, bob); err != nil {
		t.Error(err)
	}
	srv.edit(func(r *QueryResult) { r.MasterKeys[carol] = q.masterSignedBy(me2) })
	if b, c := x.lookup(bob), x.update(carol); b.State() != PinPinned || c.State() != PinVerified {
		t.Errorf("bob withdrawn: %v; carol verified again: %v", b.State(), c.State())
	}
	want(t, "history", []string{"first_seen", "verified", "verification_lost", "withdrawn"}, mem.kinds(bob))
	y := track(t, srv, mem)
	if b, c := y.lookup(bob), y.lookup(carol); b.State() != PinPinned || c.State() != PinVerified || y.lookup(alice).State() != PinVerified {
		t.Errorf("after a restart: %v, %v", b.State(), c.State())
	}
}

// A lost own identity reaches users who are in the store but not in memory.
func TestOwnChangeReachesEverybody(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem, func(o *Options) { o.Cache = smallCache(t, 1) })
	me, me2, p := newPerson(alice, "1"), newPerson(alice, "2"), newPerson(bob, "1")
	srv.publish(me)
	srv.publish(p, p.signedDevice("PHONE"))
	srv.edit(func(r *QueryResult) { r.MasterKeys[bob] = p.masterSignedBy(me) })
	x.verify(me)
	x.lookup(bob)
	x.lookup(carol)
	srv.publish(me2)
	x.Changed(&store.Changes{}, []id.UserID{bob}) // must survive what is written because of ours
	x.update(alice)
	want(t, "outdated in the store", true, mem.row(bob).Outdated)
	if mem.row(bob).Verified || !mem.row(bob).WasVerified {
		t.Error("bob is still verified")
	}
	if u := x.lookup(bob); u.State() != PinVerificationLost || len(u.Devices) != 1 {
		t.Errorf("got %v", u.State())
	}
}

// A reset by ourselves is no alarm, wherever a crash falls.
func TestOwnResetIsAnnounced(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	me, me2, me3 := newPerson(alice, "1"), newPerson(alice, "2"), newPerson(alice, "3")
	if ok, err := x.SetOwnIdentity(ctx, me.master.public); ok || err != nil { // before it is published
		t.Fatalf("got %v %v", ok, err)
	}
	srv.publish(me, me.signedDevice("OURS"))
	if u := x.lookup(alice); u.State() != PinVerified || !u.Own || u.UserSigning != me.userSign.public {
		t.Errorf("published: %v", u.State())
	}
	if ok, err := x.SetOwnIdentity(ctx, me2.master.public); ok || err != nil {
		t.Fatalf("got %v %v", ok, err)
	}
	if u := x.update(alice); u.State() != PinVerified {
		t.Errorf("not reset yet: %v", u.State())
	}
	srv.publish(me2, me2.signedDevice("OURS"))
	if u := x.update(alice); u.State() != PinVerified || u.CompareOwn("OURS", u.Devices[0].Ed25519, u.Devices[0].Curve25519) != OwnDeviceSigned {
		t.Errorf("reset: %v", u.State())
	}
	want(t, "effects", []string{"first_seen", "verified", "changed"}, x.effects(alice))

	// Attack A9: somebody else's reset is one. [freeze], also when the old one comes back
	srv.publish(me3)
	x.update(alice)
	srv.publish(me2)
	if u := x.update(alice); u.State() != PinVerificationLost {
		t.Errorf("swapped and swapped back: %v", u.State())
	}
	if own, err := x.Own(ctx); err != nil || own.State() != PinVerificationLost {
		t.Errorf("%v %v", own.State(), err)
	}
	if ok, err := x.SetOwnIdentity(ctx, me2.master.public); !ok || err != nil {
		t.Errorf("recovered: %v %v", ok, err)
	}
	if ok, err := x.SetOwnIdentity(ctx, ""); ok || err != nil {
		t.Errorf("keys gone: %v %v", ok, err)
	}
}
