package e2ee_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/trustcache"
)

// newRuledNativeStage is a native stage with rules.
func newRuledNativeStage(t *testing.T, policy trustcache.Policy, list ...rules.Rule) (*nativeStage, *prometheus.Registry) {
	t.Helper()
	hs, reg, set := liar.New(t), prometheus.NewRegistry(), ruled(t, list...)
	st := &nativeStage{rig: newRig(t, hs, func(o *e2ee.Options) {
		set(o)
		o.Metrics, o.Policy = reg, func() trustcache.Policy { return policy }
	})}
	st.alice, st.own = confirmedPuppet(t, hs, "alice", "ALICE")
	return st, reg
}

// wantRefused checks that a rule keeps alice's client from sending into a room.
func (st *nativeStage) wantRefused(room string, rule string, users ...*puppet) {
	st.t.Helper()
	err := st.client(st.alice.Session).MaySend(st.t.Context(), id.RoomID(room))
	refused, ok := errors.AsType[*e2ee.RuledError](err)
	var want []id.UserID
	for _, p := range users {
		want = append(want, id.UserID(p.UserID))
	}
	if !ok || refused.Rule != rule || refused.Reason != whyDenied || !slices.Equal(refused.Users, want) {
		st.t.Errorf("sending is refused by %v, want the rule %s about %v", err, rule, want)
	}
}

func (st *nativeStage) wantMaySend(room string) {
	st.t.Helper()
	if err := st.client(st.alice.Session).MaySend(st.t.Context(), id.RoomID(room)); err != nil {
		st.t.Error(err)
	}
}

// Attack: a client with keys of its own gives a key to somebody whom the organisation's rules deny
// all keys, although the owner has confirmed the device. The device is hidden from it, no key of
// it can be claimed, no message reaches it, and it is told so; and the rules allow nothing of what
// is refused without them.
func TestRulesHoldForNativeClients(t *testing.T) {
	t.Parallel()
	st, reg := newRuledNativeStage(t, trustcache.Policy{},
		rules.Rule{Name: "spies", Effect: "allow", When: rules.When{User: []string{"@bob:*"}}},
		denied("outsiders", rules.When{Direction: []string{"send_key"}, User: []string{"@carol:*"}, Device: []string{"confirmed"}}))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	if diff := cmp.Diff([]string{bob.UserID + " SPY", carol.UserID + " CAROL"}, st.query(st.alice.UserID, bob.UserID, carol.UserID)); diff != "" {
		t.Errorf("hidden (-want +got):\n%s", diff)
	}
	st.want("by the rules", []bool{true, false, false, true}, bob, spy, carol, st.alice)
	wantRuled(t, reg, "send_key", "outsiders", "deny", 3)
	var written []string
	for _, r := range st.audited(audit.KindNativeSend) {
		for _, u := range r.Users {
			for _, d := range u.Devices {
				written = append(written, d.Device+" "+d.Rule)
			}
		}
	}
	if !slices.Contains(written, "CAROL rule:outsiders") || !slices.Contains(written, "SPY unsigned") || slices.Contains(written, "BOB rule:spies") {
		t.Errorf("written down: %q", written)
	}
	st.wantMaySend(room) // she was given nothing
	if n := len(st.hs.Requests(liar.Is("GET", "/members$"))); n > 0 {
		t.Errorf("for rules that ask of no room the members were read %d times", n)
	}
	st.device(st.alice.Session)
	st.client(st.alice.Session).SentEncrypted(id.RoomID(room), "S1")
	await(t, "she is not told", func() bool { return len(carol.withheld()["S1"]) > 0 })
	wantTold(t, carol, "S1", "m.unauthorised")
	wantTold(t, spy, "S1", "m.unverified")
	if reason := carol.plain[0].Content["reason"]; reason != whyDenied {
		t.Errorf("she is told %q", reason)
	}
	if got := bob.withheld(); len(got) > 0 {
		t.Errorf("bob was told %v", got)
	}
}

// Attack: a rule denies the keys of some rooms, and a client with keys of its own gives them away,
// which nobody can see. Nothing leaves for such a room while somebody is in it who is denied its
// keys; elsewhere the same people write to each other.
func TestRulesAboutRoomsHoldForNativeClients(t *testing.T) {
	t.Parallel()
	st, reg := newRuledNativeStage(t, trustcache.Policy{}, denied("public", rules.When{Direction: []string{"send_key"}, RoomPublic: new(true), User: []string{"@carol:*"}}))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	private := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	public := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	opened := func(room, rule string) {
		st.hs.Inject(room, liar.Event{Type: "m.room.join_rules", Sender: st.alice.UserID, StateKey: new(""), Content: json.RawMessage(`{"join_rule":"` + rule + `"}`)})
	}
	opened(public, "public")
	if hidden := st.query(st.alice.UserID, bob.UserID, carol.UserID); len(hidden) > 0 {
		t.Errorf("hidden: %v", hidden)
	}
	st.want("by the rules", []bool{true, true}, bob, carol)
	read := func() int { return len(st.hs.Requests(liar.Is("GET", "/members$"))) }
	for range 3 {
		st.wantMaySend(private)
		st.wantMaySend(public)
	}
	if read() != 2 {
		t.Errorf("for three messages into two rooms the members were read %d times", read())
	}
	// She joins, and is given the key: the very next message does not leave.
	if code := call(t, st.hs, carol.Session, http.MethodPost, "join/"+public, map[string]any{}, nil); code != http.StatusOK {
		t.Fatalf("join answers %d", code)
	}
	st.want("by the rules", []bool{true}, carol)
	st.wantRefused(public, "public", carol)
	st.wantMaySend(private)
	wantRuled(t, reg, "send_key", "public", "deny", 1)
	if got, want := outcomes(st.audited(audit.KindNativeSend)[len(st.audited(audit.KindNativeSend))-1:]), carol.UserID+" CAROL refused rule:public"; got != want {
		t.Errorf("written down:\n%s\nwant\n%s", got, want)
	}
	// The private room is opened to everybody.
	opened(private, "public")
	st.later(31 * time.Second)
	st.wantRefused(private, "public", carol)
	opened(private, "invite")
	st.wantMaySend(private)
	// It cannot be found out, or is not shown: nothing leaves.
	st.later(31 * time.Second)
	broken := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "state/m.room.join_rules")), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))
	if err := st.client(st.alice.Session).MaySend(t.Context(), id.RoomID(private)); !errors.Is(err, e2ee.ErrCannotEncrypt) {
		t.Errorf("nothing is known of the room: %v", err)
	}
	broken()
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "state/m.room.join_rules")), liar.Fail(http.StatusForbidden, "M_FORBIDDEN"))()
	st.wantRefused(private, "public", carol)
}

// Attack: a device of the account's own that is denied secrets gets one in a message that nobody
// can read. It gets no messages at all; it stays visible, and keys of it may be claimed.
func TestRulesAboutSecretsHoldForNativeClients(t *testing.T) {
	t.Parallel()
	st, _ := newRuledNativeStage(t, trustcache.Policy{}, denied("secrets", rules.When{Direction: []string{"secret"}, Device: []string{"confirmed", "unconfirmed", "exception"}}))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	mine := newPuppet(t, st.hs, "alice", "MINE")
	st.own.confirm(mine)
	st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	if hidden := st.query(st.alice.UserID, bob.UserID); len(hidden) > 0 {
		t.Errorf("hidden: %v", hidden)
	}
	st.want("by the rules", []bool{true, false}, bob, mine)
}

// While policy.native is on warn, rules hold nevertheless, also for devices that the policy lets
// pass. With off the proxy does not look.
func TestRulesWhileNativeIsNotEnforced(t *testing.T) {
	t.Parallel()
	st, _ := newRuledNativeStage(t, trustcache.Policy{Native: trustcache.ModeWarn}, denied("unconfirmed", rules.When{Device: []string{"unconfirmed"}}))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	if diff := cmp.Diff([]string{bob.UserID + " SPY"}, st.query(bob.UserID)); diff != "" {
		t.Errorf("hidden (-want +got):\n%s", diff)
	}
	st.want("by the rules", []bool{true, false}, bob, spy)
	off, _ := newRuledNativeStage(t, trustcache.Policy{Native: trustcache.ModeOff}, denied("all", rules.When{}))
	if c := off.client(off.alice.Session); c != nil {
		t.Error("with policy.native off there is a client")
	}
}

// Rules about rooms that are tried refuse nothing of a client with keys of its own, and what they
// would refuse is a difference; not even a room of which nothing can be found out stops a message.
func TestTriedRulesAndNativeClients(t *testing.T) {
	t.Parallel()
	hs, set := liar.New(t), ruled(t, denied("public", rules.When{RoomPublic: new(false), User: []string{"@bob:*"}}))
	st := &nativeStage{rig: newRig(t, hs, func(o *e2ee.Options) {
		set(o)
		o.Rules.Tried, o.Rules.Rules = o.Rules.Rules, nil
	})}
	st.alice, st.own = confirmedPuppet(t, hs, "alice", "ALICE")
	bob, _ := confirmedPuppet(t, hs, "bob", "BOB")
	room := hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.want("on trial", []bool{true}, bob)
	st.wantMaySend(room)
	if all := st.eng.RuleDifferences(); len(all) != 1 || all[0].User != id.UserID(bob.UserID) || all[0].Room != id.RoomID(room) || all[0].Trial != "public" {
		t.Errorf("differences: %+v", all)
	}
	st.later(time.Minute)
	defer hs.Intercept(liar.Is(http.MethodGet, "/members$"), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))()
	st.wantMaySend(room)
}
