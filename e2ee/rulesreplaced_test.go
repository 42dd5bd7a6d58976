package e2ee_test

import (
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/rules"
	"e2ee-proxy/trustcache"
)

// replaceRules puts rules in force while the engine runs.
func (r *rig) replaceRules(version string, list ...rules.Rule) {
	r.t.Helper()
	set, problems := rules.Compile(list, nil)
	if len(problems) > 0 {
		r.t.Fatal(problems)
	}
	if err := r.eng.SetRules(r.t.Context(), e2ee.Ruling{Rules: set}, version); err != nil {
		r.t.Fatal(err)
	}
}

// Rules are replaced while the engine runs. Who is denied the key from then on cannot read the next
// message, who is not denied any more can, and what was held back by a rule that is gone is shown;
// the audit log names the version that decided.
func TestRulesAreReplaced(t *testing.T) {
	t.Parallel()
	st := newStage(t, ruled(t, denied("old", rules.When{Direction: []string{"show_message"}, User: []string{"@bob:*"}})))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	first := st.send(room, "for bob")
	reads(t, bob, first)
	said := bob.newMegolm(room)
	said.share(st.target())
	event := said.say("from bob")
	if code := st.wantHidden(event, "from bob"); code != "DeniedByRule" {
		t.Error(code)
	}
	st.replaceRules("v2", denied("new", rules.When{Direction: []string{"send_key"}, User: []string{"@bob:*"}}))
	st.awaitText(event, "from bob")
	second := st.send(room, "not for bob")
	if second.session == first.session {
		t.Error("bob has the key of this message")
	}
	cannotRead(t, bob, second)
	wantTold(t, bob, second.session, "m.unauthorised")
	st.replaceRules("v3")
	reads(t, bob, st.send(room, "for bob again"))
	all := st.audited(audit.KindRoomKey)
	versions := ""
	for _, r := range all {
		versions += r.Policy + " "
	}
	if versions != "policy of the test v2 v3 " {
		t.Errorf("the audit log names the versions %q", versions)
	}
}

// Attack: rules become stricter while the homeserver holds a send up. What leaves is decided by
// the new ones: bob, for whom the old ones let the key be encrypted, cannot read it.
func TestRulesChangeDuringASend(t *testing.T) {
	t.Parallel()
	for moment, match := range heldMoments {
		t.Run(moment, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
			st.told()
			gate := liar.NewGate()
			defer st.hs.Intercept(liar.Of(st.alice.UserID, match), gate.Before)()
			send := st.begin(room, "not for bob")
			send.arrives(gate)
			// It asks for what the old rules did not, too.
			st.replaceRules("v2", denied("new", rules.When{Direction: []string{"send_key"}, User: []string{"@bob:*"}, RoomPublic: new(false)}))
			gate.Open()
			h, err := send.end()
			if err != nil {
				t.Fatal(err)
			}
			cannotRead(t, bob, h)
			reads(t, carol, h)
			wantTold(t, bob, h.session, "m.unauthorised")
		})
	}
}

// Attack: a rule that holds a message back is taken away while the message is judged by it. It is
// judged again.
func TestRulesChangeWhileAMessageIsJudged(t *testing.T) {
	t.Parallel()
	st := newStage(t, ruled(t, denied("public", rules.When{Direction: []string{"show_message"}, RoomPublic: new(false)})))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "now bob is known")
	said := bob.newMegolm(room)
	said.share(st.target())
	gate := liar.NewGate()
	done := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "state/m.room.join_rules")), gate.Before)
	event := said.say("from bob")
	go func() {
		defer gate.Open()
		select {
		case <-gate.Arrived():
			if err := st.eng.SetRules(st.t.Context(), e2ee.Ruling{}, "v2"); err != nil {
				t.Error(err)
			}
		case <-st.t.Context().Done():
		}
	}()
	st.awaitText(event, "from bob")
	done()
}

// Rules that are replaced hold for clients with keys of their own with their next request, and
// devices that got no key by them are told.
func TestReplacedRulesHoldForNativeClients(t *testing.T) {
	t.Parallel()
	st, _ := newRuledNativeStage(t, trustcache.Policy{})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.device(st.alice.Session)
	st.want("without rules", []bool{true}, bob)
	st.client(st.alice.Session).SentEncrypted(id.RoomID(room), "S1")
	st.replaceRules("v2", denied("new", rules.When{User: []string{"@bob:*"}}))
	st.want("with a rule", []bool{false}, bob)
	if hidden := st.query(bob.UserID); len(hidden) != 1 {
		t.Errorf("hidden: %v", hidden)
	}
	st.client(st.alice.Session).SentEncrypted(id.RoomID(room), "S1")
	await(t, "he is not told", func() bool { return len(bob.withheld()["S1"]) > 0 })
	st.replaceRules("v3")
	st.want("without it again", []bool{true}, bob)
}
