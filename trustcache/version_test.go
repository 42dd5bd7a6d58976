package trustcache

import (
	"context"
	"testing"

	"maunium.net/go/mautrix/id"
)

// Who decides twice asks for the version first. As long as it is the same nothing that was
// given has changed; every change of what is known moves it, wherever it comes from. To be
// asked, and to read what is stored, change nothing.
func TestVersion(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	me, b := newPerson(alice, "1"), newPerson(bob, "1")
	srv.publish(me, me.signedDevice("OWN"))
	srv.publish(b, b.signedDevice("PHONE"))
	x := track(t, srv, mem)
	x.lookups(alice, bob)
	ctx := context.Background()
	last := x.Version()
	moved := func(what string, want bool) {
		t.Helper()
		if now := x.Version(); (now != last) != want {
			t.Errorf("%s: moved %v, want %v", what, now != last, want)
		}
		last = x.Version()
	}
	was := x.lookups(alice, bob)
	moved("a lookup of whom is known", false)
	now, err := x.Cached(ctx, []id.UserID{alice, bob})
	if err != nil {
		t.Fatal(err)
	}
	if now[bob] != was[bob] || now[alice] != was[alice] {
		t.Error("who has not changed is another")
	}
	moved("a look into memory", false)
	x.cache.users.Purge()
	if _, err := x.Cached(ctx, []id.UserID{bob}); err != nil {
		t.Fatal(err)
	}
	moved("a read of the store", false)
	x.changed(bob)
	moved("a change that the homeserver tells of", true)
	x.lookup(bob)
	moved("an answer", true)
	x.left(bob)
	moved("the end of tracking", true)
	x.lookup(bob)
	moved("an answer", true)
	if err := x.SetOverride(ctx, bob, "PHONE", OverrideDistrusted); err != nil {
		t.Fatal(err)
	}
	moved("an exception", true)
	if _, err := x.SetOwnIdentity(ctx, was[alice].Current); err != nil {
		t.Fatal(err)
	}
	moved("the own identity is verified", true)
	srv.publish(newPerson(bob, "2"))
	x.update(bob)
	moved("another identity", true)
	if err := x.Acknowledge(ctx, bob, x.lookup(bob).Current); err != nil {
		t.Fatal(err)
	}
	moved("an acknowledgement", true)
	if err := x.Ended(ctx, "OWN"); err != nil {
		t.Fatal(err)
	}
	moved("the end of a device", true)
}
