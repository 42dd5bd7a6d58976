package e2ee_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/trustcache"
)

// rolledOut returns a stage whose policy is on "warn" in both directions until a day, with
// what MSC4153 would hold against it: an identity that changed, and a device that is not
// confirmed and that wrote twice.
func rolledOut(t *testing.T, mode trustcache.Mode) (st *stage, reg **prometheus.Registry, room string, bob, odd *puppet) {
	t.Helper()
	var current *prometheus.Registry
	reg = &current
	until := time.Now().Add(24 * time.Hour)
	st = newStage(t, func(o *e2ee.Options) {
		current = prometheus.NewRegistry()
		o.Metrics = current
		now := o.Now
		o.Policy = func() trustcache.Policy {
			if now().Before(until) {
				return trustcache.Policy{Send: mode, Receive: mode}
			}
			return trustcache.Policy{}
		}
	})
	bob, _ = confirmedPuppet(t, st.hs, "bob", "BOB")
	odd = newPuppet(t, st.hs, "bob", "ODD")
	room = st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "now bob is known")
	newIdentity(t, st.hs, bob.Session).confirm(bob)
	st.told()
	return st, reg, room, bob, odd
}

// While the policy is on "warn" everything is done as without it, and what it would have
// done is told: in metrics, and in status for each room by devices and users, so that an
// administrator can decide. From the day that was set it is done (docs/msc4153.md).
func TestStagedRollout(t *testing.T) {
	t.Parallel()
	st, reg, room, bob, odd := rolledOut(t, trustcache.ModeWarn)
	reads(t, odd, st.send(room, "as without the policy"))
	said := odd.newMegolm(room)
	said.share(st.target())
	for _, text := range []string{"one", "two"} {
		event := said.say(text)
		st.awaitText(event, text)
		if trust := trustOf(st.shown[event]); trust["code"] != "UnsignedDevice" || trust["color"] != "red" {
			t.Errorf("shown as %v", trust)
		}
	}
	quiet := st.hs.CreateRoom(true, st.alice.UserID)
	st.send(quiet, "nothing is held against this room")
	want := &e2ee.PolicyStatus{Send: "warn", Receive: "warn", Native: "enforce", Would: &e2ee.WouldHave{Rooms: []e2ee.RoomWouldHave{{
		RoomID: id.RoomID(room), BlockedBy: []id.UserID{id.UserID(bob.UserID)}, WithoutKey: 2, // both of bob's, since he is not who he was
		Messages: 2, Devices: 1,
	}}}}
	check := func(when string) {
		t.Helper()
		got := status(t, st.dev).Policy
		if got.Would == nil || got.Would.Since.IsZero() {
			t.Fatalf("%s: status says %+v", when, got)
		}
		got.Would.Since = time.Time{}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
	}
	check("on warn")
	wantCount(t, *reg, "e2ee_proxy_policy_sends_total", "allowed", 2)
	wantCount(t, *reg, "e2ee_proxy_policy_sends_total", "would_block", 1)
	wantCount(t, *reg, "e2ee_proxy_policy_shares_total", "would_withhold", 1)
	wantCount(t, *reg, "e2ee_proxy_policy_received_events_total", "would_withhold", 2)

	// What is told is since the process began; who got their key before counts all the same.
	st.again()
	st.send(room, "after a restart")
	want.Would.Rooms[0].Messages, want.Would.Rooms[0].Devices = 0, 0
	check("after a restart")

	st.later(25 * time.Hour)
	if users, _ := blockedBy(t, second(st.trySend(room, "enforced"))); len(users) != 1 {
		t.Errorf("held up by %v", users)
	}
	if code := st.wantHidden(said.say("enforced too"), "enforced too"); code != "UnsignedDevice" {
		t.Error(code)
	}
	if got := status(t, st.dev).Policy; got.Send != "enforce" || got.Receive != "enforce" || got.Would != nil {
		t.Errorf("status says %+v", got)
	}
	wantCount(t, *reg, "e2ee_proxy_policy_sends_total", "blocked", 1)
	wantCount(t, *reg, "e2ee_proxy_policy_received_events_total", "withheld", 1)
}

// On "off" nothing of the policy is looked at, counted or told.
func TestPolicyOff(t *testing.T) {
	t.Parallel()
	st, reg, room, _, odd := rolledOut(t, trustcache.ModeOff)
	reads(t, odd, st.send(room, "as without the policy"))
	said := odd.newMegolm(room)
	said.share(st.target())
	st.awaitText(said.say("shown"), "shown")
	if got := status(t, st.dev).Policy; got.Send != "off" || got.Receive != "off" || got.Would != nil {
		t.Errorf("status says %+v", got)
	}
	for _, name := range []string{"would_block", "would_withhold", "blocked", "withheld"} {
		wantCount(t, *reg, "e2ee_proxy_policy_sends_total", name, 0)
		wantCount(t, *reg, "e2ee_proxy_policy_shares_total", name, 0)
		wantCount(t, *reg, "e2ee_proxy_policy_received_events_total", name, 0)
	}
}

// Somebody enforces the policy too early and goes back to "warn": what was held back
// meanwhile is shown, as it would have been.
func TestBackToWarn(t *testing.T) {
	t.Parallel()
	mode := trustcache.ModeEnforce
	st := newStage(t, func(o *e2ee.Options) {
		now := trustcache.Policy{Receive: mode}
		o.Policy = func() trustcache.Policy { return now }
	})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	odd := newPuppet(t, st.hs, "bob", "ODD")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "now bob is known")
	said := odd.newMegolm(room)
	said.share(st.target())
	event := said.say("too early")
	if code := st.wantHidden(event, "too early"); code != "UnsignedDevice" {
		t.Error(code)
	}
	st.again()
	st.wantHidden(event, "too early")
	mode = trustcache.ModeWarn
	st.again()
	st.awaitText(event, "too early")
	if trust := trustOf(st.shown[event]); trust["code"] != "UnsignedDevice" {
		t.Errorf("shown as %v", trust)
	}
}

// Reported: a policy that is on "warn" told a zero date while it had nothing to tell. It
// tells from when on nothing was to tell.
func TestWouldHaveSinceIsADate(t *testing.T) {
	t.Parallel()
	before := time.Now().Truncate(time.Second)
	st := newStage(t, func(o *e2ee.Options) {
		o.Policy = func() trustcache.Policy { return trustcache.Policy{Send: trustcache.ModeWarn} }
	})
	would := status(t, st.dev).Policy.Would
	if would == nil || len(would.Rooms) > 0 || would.Since.Before(before) || would.Since.After(time.Now()) {
		t.Errorf("status says %+v", would)
	}
}

// Reported: policy.send on "warn" refused sends. What the policy is about it lets pass, the
// own identity that was reset elsewhere included; a device that is not confirmed is refused
// by account.require_cross_signing, which is another setting, and by that alone.
func TestWarnRefusesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		allowed bool
		want    error
	}{{true, nil}, {false, e2ee.ErrDeviceNotSigned}} {
		st := newStage(t, func(o *e2ee.Options) {
			o.Account = func(id.UserID) e2ee.AccountSettings { return e2ee.AccountSettings{AllowUnsigned: c.allowed} }
			o.Policy = func() trustcache.Policy { return trustcache.Policy{Send: trustcache.ModeWarn} }
		})
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
		st.send(room, "confirmed")
		newIdentity(t, st.hs, bob.Session).confirm(bob)
		elsewhere := newRig(t, st.hs, nil).device(st.hs.Login("alice", "ELSEWHERE"))
		if _, err := elsewhere.Reset(t.Context(), e2ee.UserAuth{Password: secret.NewString("password of alice")}); err != nil {
			t.Fatal(err)
		}
		await(t, "the reset is not noticed", func() bool {
			st.told()
			return problems(status(t, st.dev))["own_identity_changed"]
		})
		_, err := st.trySend(room, "the identities of both were reset")
		wantErr(t, "the send", err, c.want)
	}
}
