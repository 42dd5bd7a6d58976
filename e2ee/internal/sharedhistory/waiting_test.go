package sharedhistory

import (
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/trustcache"
)

func noted(room id.RoomID, user id.UserID, device string, at time.Time) bundle {
	return bundle{
		Room: room, From: trustcache.Owner{UserID: user, Curve25519: id.Curve25519(device)}, At: at,
		File: file{URL: id.ContentURIString("mxc://x/" + device)},
	}
}

// Somebody floods a device with bundles, alone or under many names: there are never more than a
// number, and one sender's push out nobody else's until nobody has more than one.
func TestWaitingBundlesAreBounded(t *testing.T) {
	t.Parallel()
	var w waiting
	now := time.Now()
	w.addBundle(noted("!mine:x", "@bob:x", "BOB", now))
	for i := range 1000 {
		w.addBundle(noted(id.RoomID(fmt.Sprintf("!%d:x", i)), "@mallory:x", "M", now))
	}
	if len(w.Bundles) != 1+maxOfSender {
		t.Errorf("%d bundles wait", len(w.Bundles))
	}
	for i := range maxBundles - 2 {
		w.addBundle(noted("!r:x", id.UserID(fmt.Sprintf("@m%d:x", i)), "M", now))
	}
	if len(w.Bundles) != maxBundles {
		t.Errorf("%d bundles wait", len(w.Bundles))
	}
	w.invited("!mine:x", "@bob:x", now)
	w.joined("!mine:x", now)
	if _, _, ok := w.next(now, nil); !ok {
		t.Error("bob's bundle was pushed out")
	}
}

// The devices of an inviter are kept apart: one that is not theirs does not push out another's
// bundle. The newest is looked at first, and each only once in a round.
func TestBundlesOfSeveralDevices(t *testing.T) {
	t.Parallel()
	var w waiting
	now := time.Now()
	w.addBundle(noted("!r:x", "@bob:x", "GOOD", now))
	w.addBundle(noted("!r:x", "@bob:x", "ODD", now))
	w.addBundle(noted("!r:x", "@bob:x", "GOOD", now.Add(time.Second))) // again
	w.addBundle(noted("!other:x", "@bob:x", "GOOD", now))
	w.addBundle(noted("!r:x", "@carol:x", "GOOD", now))
	w.invited("!r:x", "@bob:x", now)
	if _, _, ok := w.next(now, nil); ok {
		t.Error("a bundle is taken before the invitation is accepted")
	}
	w.joined("!r:x", now)
	var tried []bundle
	var order []id.Curve25519
	for {
		_, b, ok := w.next(now, tried)
		if !ok {
			break
		}
		tried, order = append(tried, b), append(order, b.From.Curve25519)
	}
	if fmt.Sprint(order) != "[GOOD ODD]" {
		t.Errorf("they are taken in the order %v", order)
	}
	w.done(&tried[1], refused)
	if _, b, ok := w.next(now, nil); !ok || b.From.Curve25519 != "GOOD" {
		t.Error("after a refusal nothing is taken")
	}
	w.done(&tried[0], taken)
	if _, _, ok := w.next(now, nil); ok || len(w.Accepted) != 0 || len(w.Bundles) != 2 {
		t.Errorf("after it was taken %+v wait", w)
	}
}

// An invitation counts until another user's takes its place, the room is left, or a day after it
// was accepted; old bundles go.
func TestInvitationsThatCount(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tt := range map[string]struct {
		run  func(w *waiting)
		want bool
	}{
		"accepted":        {func(w *waiting) { w.joined("!r:x", now) }, true},
		"accepted before": {func(w *waiting) { w.joined("!r:x", now.Add(-23*time.Hour)) }, true},
		"a day ago":       {func(w *waiting) { w.joined("!r:x", now.Add(-acceptedFor)) }, false},
		"another room":    {func(w *waiting) { w.joined("!other:x", now) }, false},
		"left again":      {func(w *waiting) { w.joined("!r:x", now); w.left("!r:x") }, false},
		"declined":        {func(w *waiting) { w.left("!r:x"); w.joined("!r:x", now) }, false},
		"another inviter": {func(w *waiting) { w.invited("!r:x", "@carol:x", now); w.joined("!r:x", now) }, false},
		"told again":      {func(w *waiting) { w.invited("!r:x", "@bob:x", now); w.joined("!r:x", now) }, true},
	} {
		var w waiting
		w.addBundle(noted("!r:x", "@bob:x", "BOB", now))
		w.invited("!r:x", "@bob:x", now)
		before := w.clone()
		tt.run(&w)
		if _, _, ok := w.next(now, nil); ok != tt.want {
			t.Errorf("%s: a bundle is taken: %t", name, ok)
		}
		if len(before.Invites) != 1 || len(before.Accepted) != 0 || before.Invites[0].By != "@bob:x" {
			t.Errorf("%s: the copy of before is %+v", name, before)
		}
	}
	var w waiting
	w.addBundle(noted("!r:x", "@bob:x", "BOB", now.Add(-keptFor)))
	w.invited("!r:x", "@bob:x", now)
	w.joined("!r:x", now.Add(-acceptedFor))
	if w.expire(now); !w.empty() {
		t.Errorf("what is too old waits: %+v", w)
	}
	for i := range 2 * maxInvites {
		w.invited(id.RoomID(fmt.Sprint(i)), "@bob:x", now)
		w.joined(id.RoomID(fmt.Sprint(i)), now)
		w.invited(id.RoomID(fmt.Sprint(-i)), "@bob:x", now)
	}
	if len(w.Invites) > maxInvites || len(w.Accepted) > maxInvites {
		t.Errorf("%d invitations, %d accepted ones", len(w.Invites), len(w.Accepted))
	}
}
