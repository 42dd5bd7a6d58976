package e2ee_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/rules"
)

// ruled returns a change of the options that sets rules.
func ruled(t *testing.T, list ...rules.Rule) func(*e2ee.Options) {
	t.Helper()
	set, problems := rules.Compile(list, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return func(o *e2ee.Options) { o.Rules.Rules = set }
}

const whyDenied = "Only people of the company may have this."

func denied(name string, when rules.When) rules.Rule {
	return rules.Rule{Name: name, Effect: "deny", When: when, Reason: whyDenied}
}

func wantRuled(t *testing.T, reg *prometheus.Registry, direction, rule, outcome string, want float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := 0.0
	for _, f := range families {
		if f.GetName() != "e2ee_proxy_rule_decisions_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := make(map[string]string)
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["direction"] == direction && labels["rule"] == rule && labels["outcome"] == outcome {
				got = m.GetCounter().GetValue()
			}
		}
	}
	if got != want {
		t.Errorf("%s %s %s was counted %v times, want %v", direction, rule, outcome, got, want)
	}
}

// A rule denies carol the room keys: bob gets them, she is told m.unauthorised with the reason,
// once for the session, the message is sent, and it costs nobody a new session.
func TestRuleWithholdsRoomKeys(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	change := ruled(t, denied("outsiders", rules.When{Direction: []string{"send_key"}, User: []string{"@carol:*"}, Device: []string{"confirmed"}}))
	st := newStage(t, func(o *e2ee.Options) { change(o); o.Metrics = reg })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	first := st.send(room, "for bob")
	for range 3 {
		h := st.send(room, "more for bob")
		if h.session != first.session {
			t.Error("a device that is denied the key made a new session")
		}
		reads(t, bob, h)
		cannotRead(t, carol, h)
	}
	wantTold(t, carol, first.session, "m.unauthorised")
	notes := st.hs.Requests(liar.Is(http.MethodPut, "sendToDevice/m.room_key.withheld/"))
	if len(notes) != 1 || !strings.Contains(string(notes[0].Body), whyDenied) || strings.Contains(string(notes[0].Body), bob.UserID) {
		t.Errorf("%d notes: %+v", len(notes), notes)
	}
	if len(carol.opened) > 0 {
		t.Error("she was sent something over Olm")
	}
	want := bob.UserID + " BOB given signed\n" + carol.UserID + " CAROL withheld rule:outsiders m.unauthorised"
	if got := outcomes(st.audited(audit.KindRoomKey)); got != want {
		t.Errorf("written down:\n%s\nwant\n%s", got, want)
	}
	wantRuled(t, reg, "send_key", "outsiders", "deny", 4)
	wantRuled(t, reg, "send_key", "none", "allow", 4)
}

// A rule is about rooms that anybody may join. The room's state is read once, not for every
// message, and when the room is opened to everybody, who is denied the key has it no longer: the
// next message has another.
func TestRuleAboutPublicRooms(t *testing.T) {
	t.Parallel()
	st := newStage(t, ruled(t, denied("public", rules.When{Direction: []string{"send_key"}, RoomPublic: new(true), User: []string{"@bob:*"}})))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	looked := func() int { return len(st.hs.Requests(liar.Is(http.MethodGet, "state/m.room.join_rules"))) }
	h := st.send(room, "among us")
	for range 3 {
		reads(t, bob, st.send(room, "more among us"))
	}
	if looked() != 1 {
		t.Errorf("the join rules were read %d times for four messages", looked())
	}
	st.hs.Inject(room, liar.Event{Type: "m.room.join_rules", Sender: st.alice.UserID, StateKey: new(""), Content: json.RawMessage(`{"join_rule":"public"}`)})
	st.later(31 * time.Second)
	public := st.send(room, "in public")
	if public.session == h.session {
		t.Error("bob has the key of this message")
	}
	cannotRead(t, bob, public)
	wantTold(t, bob, public.session, "m.unauthorised")
	st.hs.Inject(room, liar.Event{Type: "m.room.join_rules", Sender: st.alice.UserID, StateKey: new(""), Content: json.RawMessage(`{"join_rule":"invite"}`)})
	st.later(31 * time.Second)
	reads(t, bob, st.send(room, "among us again"))
}

// Attack: the homeserver does not say what a rule asks of a room. As long as it may be a fault
// nothing is sent, because nobody could read it; where the account is not shown it, the rule
// denies.
func TestRoomThatRulesKnowNothingOf(t *testing.T) {
	t.Parallel()
	st := newStage(t, ruled(t,
		rules.Rule{Name: "private", Effect: "allow", When: rules.When{Direction: []string{"send_key"}, RoomPublic: new(false)}},
	))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	broken := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "state/m.room.join_rules")), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))
	wantErr(t, "nothing is known of the room", second(st.trySend(room, "to whom")), e2ee.ErrCannotEncrypt)
	if got := st.hs.Requests(liar.Is(http.MethodPut, "sendToDevice/")); len(got) > 0 {
		t.Errorf("%d messages went to devices", len(got))
	}
	broken()
	h := st.send(room, "now it is known")
	reads(t, bob, h)
	st.later(time.Minute)
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "state/m.room.join_rules")), liar.Fail(http.StatusForbidden, "M_FORBIDDEN"))()
	hidden := st.send(room, "now it is hidden")
	cannotRead(t, bob, hidden)
	wantTold(t, bob, hidden.session, "m.unauthorised")
}

// A rule is about rooms with members of a server. Everybody counts who is in the room.
func TestRuleAboutMembersServers(t *testing.T) {
	t.Parallel()
	st := newStage(t, ruled(t, denied("mixed", rules.When{MemberServer: []string{"other.example"}, User: []string{"@bob:*"}})))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	h := st.send(room, "among us")
	reads(t, bob, h)
	st.hs.Inject(room, liar.Event{Type: "m.room.member", Sender: "@x:other.example", StateKey: new("@x:other.example"), Content: json.RawMessage(`{"membership":"join"}`)})
	st.told()
	mixed := st.send(room, "with a guest")
	cannotRead(t, bob, mixed)
	wantTold(t, bob, mixed.session, "m.unauthorised")
}

// Attack: a rule, or who wrote it, would give more than the engine does. Whatever rules allow, a
// device that its owner has not signed gets no key, and nothing of it is shown.
func TestRulesAllowNothingThatIsRefused(t *testing.T) {
	t.Parallel()
	st := newStage(t, ruled(t, rules.Rule{Name: "everything", Effect: "allow"}))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	h := st.send(room, "for bob only")
	reads(t, bob, h)
	cannotRead(t, spy, h)
	wantTold(t, spy, h.session, "m.unverified")
	said := spy.newMegolm(room)
	said.share(st.target())
	if code := st.wantHidden(said.say("from the spy"), "from the spy"); code != "UnsignedDevice" {
		t.Error(code)
	}
	stranger := newPuppet(t, st.hs, "alice", "STRANGER")
	before := len(stranger.opened)
	st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, st.alice.UserID, "m.secret.request", map[string]string{
		"action": "request", "name": "m.cross_signing.master", "request_id": "1", "requesting_device_id": "STRANGER",
	})
	st.told()
	st.dev.Maintain(t.Context())
	if stranger.roomKeys(); len(stranger.opened) != before {
		t.Error("a device that is not confirmed was given something")
	}
}

// A rule holds messages back: the client sees that there is one, and why, and nothing of what it
// says. What was in clear in the encrypted room is held back too. Without the rule all of it that
// came encrypted is shown.
func TestRuleHoldsMessagesBack(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	change := ruled(t, denied("partners", rules.When{Direction: []string{"show_message"}, User: []string{"@bob:*"}}))
	st := newStage(t, func(o *e2ee.Options) { change(o); o.Metrics = reg })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	reads(t, bob, st.send(room, "he gets keys"))
	said, hers := bob.newMegolm(room), carol.newMegolm(room)
	said.share(st.target())
	hers.share(st.target())
	event := said.say("from bob")
	if code := st.wantHidden(event, "from bob"); code != "DeniedByRule" {
		t.Error(code)
	}
	if body := bodyOf(st.shown[event]); !isPlaceholder(st.shown[event]) || !strings.Contains(body, whyDenied) || trustOf(st.shown[event])["decrypted"] != false {
		t.Errorf("the client is shown %v", st.shown[event])
	}
	st.awaitText(hers.say("from carol"), "from carol")
	clear := st.hs.Inject(room, liar.Event{Type: "m.room.message", Sender: bob.UserID, Content: json.RawMessage(`{"msgtype":"m.text","body":"in clear"}`)})
	if code := st.wantHidden(clear, "in clear"); code != "DeniedByRule" {
		t.Error(code)
	}
	wantRuled(t, reg, "show_message", "partners", "deny", 2)

	st.opts = unspread(nil)
	st.again()
	st.awaitText(event, "from bob")
}

// Attack: the homeserver does not answer what a rule asks of a room, so that a message is shown, or
// lost. It is neither: it comes when the rule can be asked.
func TestMessageOfARoomThatRulesKnowNothingOf(t *testing.T) {
	t.Parallel()
	st := newStage(t, ruled(t, denied("public", rules.When{Direction: []string{"show_message"}, RoomPublic: new(true)})))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "now bob is known")
	said := bob.newMegolm(room)
	said.share(st.target())
	broken := st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "state/m.room.join_rules")), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))
	event := said.say("of a room")
	st.wantHidden(event, "of a room")
	broken()
	st.awaitText(event, "of a room")
	st.later(time.Minute)
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "state/m.room.join_rules")), liar.Fail(http.StatusForbidden, "M_FORBIDDEN"))()
	if code := st.wantHidden(said.say("of a hidden room"), "of a hidden room"); code != "DeniedByRule" {
		t.Error(code)
	}
}

// A rule denies the history of rooms to who is invited.
func TestRuleDeniesHistory(t *testing.T) {
	t.Parallel()
	st := newStage(t, ruled(t, denied("outsiders", rules.When{Direction: []string{"send_key"}, User: []string{"@bob:*"}})))
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room, said := st.ownRoom("shared")
	st.share(room, bob)
	if keys, _, messages := bob.bundles(); len(messages) != 0 || len(keys) != 0 || st.uploads() != 0 {
		t.Errorf("bob gets %d keys in %d messages, and %d files were uploaded", len(keys), len(messages), st.uploads())
	}
	st.share(room, carol)
	if keys, _, _ := carol.bundles(); keys[said.session] == nil {
		t.Errorf("carol gets %v", keys)
	}
}

// A rule denies secrets to the account's other devices, although they are confirmed.
func TestRuleDeniesSecrets(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "FIRST")
	alice.rig.opts = ruled(t, denied("no-secrets", rules.When{Direction: []string{"secret"}, Device: []string{"verified"}}))
	alice.restart()
	ready(t, alice.dev)
	second := withoutBackupKey(t, hs, alice)
	await(t, "nothing is asked for", func() bool { return second.dev.AskedFor()[backupSecret] != "" })
	alice.processed()
	second.processed()
	if hasBackupKey(t, second.dev) {
		t.Fatal("the device was given the backup's key")
	}
	if got, want := outcomes(alice.rig.audited(audit.KindSecret)), alice.UserID+" SECOND refused rule:no-secrets"; got != want {
		t.Errorf("written down:\n%s\nwant\n%s", got, want)
	}
	alice.rig.opts = nil
	alice.restart()
	hs.SendToDevice(alice.UserID, "FIRST", alice.UserID, "m.secret.request", map[string]string{
		"action": "request", "name": backupSecret, "request_id": second.dev.AskedFor()[backupSecret], "requesting_device_id": "SECOND",
	})
	await(t, "without the rule it is not given either", func() bool {
		alice.processed()
		second.processed()
		return hasBackupKey(t, second.dev)
	})
}

// A rule denies room keys to the account's other devices that ask for them.
func TestRuleDeniesRequestedKeys(t *testing.T) {
	t.Parallel()
	first, late, _, room := lateDevice(t)
	reg := prometheus.NewRegistry()
	change := ruled(t, denied("no-forwards", rules.When{Direction: []string{"send_key"}, User: []string{first.UserID}}))
	first.rig.opts = func(o *e2ee.Options) { change(o); o.Metrics = reg }
	first.restart()
	ready(t, first.dev)
	late.restart() // what still waits is asked for
	await(t, "nothing is asked for", func() bool { return len(requested(t, first.hs, "request")) > 0 })
	first.processed()
	late.processed()
	if ev := late.open(room, false); len(ev) != 1 || ev[0].Unsigned.Trust.Code != "MissingRoomKey" {
		t.Errorf("the late device is shown %+v", ev)
	}
	if got, want := outcomes(first.rig.audited(audit.KindForwardedKey)), first.UserID+" LATE refused rule:no-forwards"; got != want {
		t.Errorf("written down:\n%s\nwant\n%s", got, want)
	}
	wantRuled(t, reg, "send_key", "no-forwards", "deny", 1)
}

// Rules that are tried decide nothing, not even when what they ask of the room cannot be found out.
func TestTriedRuleDecidesNothing(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	var logged logBook
	set, problems := rules.Compile([]rules.Rule{denied("public", rules.When{JoinRule: []string{"public"}}), denied("bob", rules.When{User: []string{"@bob:*"}})}, nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	st := newStage(t, func(o *e2ee.Options) { o.Rules.Tried, o.Metrics, o.Log = set, reg, zerolog.New(&logged) })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	reads(t, bob, st.send(room, "as ever"))
	reads(t, bob, st.send(room, "as ever too"))
	st.later(time.Minute)
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "state/m.room.join_rules")), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))()
	reads(t, bob, st.send(room, "without an answer"))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "e2ee_proxy_rule_trial_differences_total" {
				var labels []string
				for _, l := range m.GetLabel() {
					labels = append(labels, l.GetName()+"="+l.GetValue())
				}
				got[strings.Join(labels, " ")] = m.GetCounter().GetValue()
			}
		}
	}
	want := map[string]float64{
		"direction=send_key rule=none trial_outcome=deny trial_rule=bob":    2,
		"direction=send_key rule=none trial_outcome=deny trial_rule=public": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	st.stop()
	logged.wantLines(t, "The rules on trial decide otherwise", map[string]any{
		"account": st.alice.UserID, "user": bob.UserID, "room": room, "direction": "send_key",
	}, "", "") // one line for each rule
}

// The options have no rules by default, and then nothing is asked of rooms.
func TestNoRulesAskNothing(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	reads(t, bob, st.send(room, "as ever"))
	if got := st.hs.Requests(liar.Is(http.MethodGet, "state/m.room.(join_rules|canonical_alias)")); len(got) != 0 {
		t.Errorf("%d questions about the room", len(got))
	}
	if got, err := st.dev.RoomEncryption(t.Context(), id.RoomID(room)); err != nil || got != e2ee.RoomEncrypted {
		t.Error(got, err)
	}
}
