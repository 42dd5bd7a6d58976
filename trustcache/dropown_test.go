package trustcache

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"
)

// An account that nobody uses keeps nothing of its own user in memory. What it knows of them is
// the same after that, nothing of others is dropped, and the homeserver is not asked.
func TestDropOwn(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	me, b := newPerson(alice, "1"), newPerson(bob, "1")
	srv.publish(me, me.signedDevice("OWN"))
	srv.publish(b, b.signedDevice("PHONE"))
	x := track(t, srv, mem)
	was := x.lookups(alice, bob)
	x.DropOwn()
	if x.cached(alice) != nil || x.cached(bob) == nil {
		t.Error("in memory is somebody else than bob")
	}
	now, err := x.Cached(t.Context(), []id.UserID{alice, bob})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(was, now); diff != "" {
		t.Errorf("(-before +after)\n%s", diff)
	}
	if now[bob] != was[bob] {
		t.Error("bob was read again")
	}
}
