package e2ee_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store"
)

// newest waits until the newest verification of a device has a state.
func (p *person) newest(state e2ee.VerificationState) e2ee.Verification {
	p.t.Helper()
	var last e2ee.Verification
	await(p.t, fmt.Sprintf("%s has no verification that is %s", p.UserID, state), func() bool {
		all, err := p.dev.Verifications(p.t.Context())
		if err != nil {
			p.t.Fatal(err)
		}
		if len(all) == 0 {
			return false
		}
		if last = all[0]; last.State.Over() && last.State != state {
			p.t.Fatalf("%s: the verification is %s (%s), want %s", p.UserID, last.State, last.CancelCode, state)
		}
		return last.State == state
	})
	return last
}

// must fails when a step of a verification does.
func (p *person) must(v e2ee.Verification, err error) e2ee.Verification {
	p.t.Helper()
	if err != nil {
		p.t.Fatalf("%s: %v", p.UserID, err)
	}
	return v
}

func (p *person) ask(other *person) {
	p.t.Helper()
	p.must(p.dev.RequestVerification(p.t.Context(), idUser(other.UserID), e2ee.VerificationPartner{}))
}

// compare brings two people to where they compare emoji.
func compare(a, b *person) (va, vb e2ee.Verification) {
	a.t.Helper()
	ctx := a.t.Context()
	a.ask(b)
	b.must(b.dev.AcceptVerification(ctx, b.newest(e2ee.VerificationRequested).ID))
	a.must(a.dev.StartEmoji(ctx, a.newest(e2ee.VerificationReady).ID))
	return a.newest(e2ee.VerificationCompare), b.newest(e2ee.VerificationCompare)
}

// knows returns what a device thinks of a user.
func (p *person) knows(other *person) string {
	p.t.Helper()
	u, err := p.dev.User(p.t.Context(), idUser(other.UserID))
	if err != nil {
		p.t.Fatal(err)
	}
	return u.State
}

// two returns two people whose devices are in order.
func two(t *testing.T) (a, b *person) {
	t.Helper()
	hs := liar.New(t)
	a, b = newPerson(t, hs, "alice", "ALICE"), newPerson(t, hs, "bob", "BOB")
	a.newRoom(b)
	return a, b
}

// What all attacks change one thing of: two people verify each other, both signatures are at the
// homeserver, and the pins say so, also after a restart.
func TestVerify(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	va, vb := compare(a, b)
	if *va.Decimals != *vb.Decimals {
		t.Fatalf("they see %v and %v", va.Decimals, vb.Decimals)
	}
	a.must(a.dev.ConfirmEmoji(t.Context(), va.ID, true))
	b.must(b.dev.ConfirmEmoji(t.Context(), vb.ID, true))
	a.newest(e2ee.VerificationDone)
	b.newest(e2ee.VerificationDone)
	for range 2 {
		if a.knows(b) != "verified" || b.knows(a) != "verified" {
			t.Errorf("alice says that bob is %s, he that she is %s", a.knows(b), b.knows(a))
		}
		a.restart()
		b.restart()
	}
	if all, err := a.dev.Verifications(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("after a restart: %v, %v", all, err)
	}
}

// Attack: the homeserver accepts alice's signature of bob's identity and does not keep it. The
// person must not be told that bob is verified (requirement 12.8: read back).
func TestAttackVerificationNotKept(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	va, vb := compare(a, b)
	a.hs.Intercept(liar.Of(a.UserID, liar.Is(http.MethodPost, "signatures/upload")), func(*liar.Request, func() liar.Reply) liar.Reply {
		return liar.Reply{Status: http.StatusOK, Body: map[string]any{}}
	})
	a.must(a.dev.ConfirmEmoji(t.Context(), va.ID, true))
	b.must(b.dev.ConfirmEmoji(t.Context(), vb.ID, true))
	if v := a.newest(e2ee.VerificationCancelled); !strings.Contains(v.Message, "did not save") {
		t.Errorf("she is told %q", v.Message)
	}
	if got := a.knows(b); got != "pinned" {
		t.Errorf("bob is %s", got)
	}
}

// Attack: the homeserver shows an identity of its own making for bob, from the moment that emoji
// are compared, or before. What was compared is not what would be signed: nobody is verified,
// and the change is a warning of its own.
func TestAttackIdentitySwappedWhileVerifying(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	va, _ := compare(a, b)
	if _, err := b.dev.Reset(t.Context(), e2ee.UserAuth{Password: secret.NewString("password of bob")}); err != nil {
		t.Fatal(err)
	}
	v, err := a.dev.ConfirmEmoji(t.Context(), va.ID, true)
	if err != nil || v.State != e2ee.VerificationCancelled || v.CancelCode != "m.key_mismatch" {
		t.Errorf("confirming gives %s (%s), %v", v.State, v.CancelCode, err)
	}
	if got := a.knows(b); got != "changed" {
		t.Errorf("bob is %s", got)
	}
}

// Attack: the homeserver records the messages of a verification and brings all of them again, in
// order, while one is under way and after it is over. Each was for one flow and one key: nothing
// changes, and nothing is answered but that it is not known.
func TestAttackReplayedVerification(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	recorded := collect(a, b)
	if len(recorded) < 5 {
		t.Fatalf("only %d messages were recorded", len(recorded))
	}
	again := func() {
		for _, m := range recorded {
			a.hs.SendToDevice(a.UserID, "ALICE", b.UserID, m.kind, m.content)
		}
		if err := a.dev.SyncNow(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	again()
	if v := a.newest(e2ee.VerificationDone); v.CancelCode != "" {
		t.Errorf("%+v", v)
	}
	a.restart() // what is over is forgotten
	uploads := len(a.hs.Requests(liar.Of(a.UserID, liar.Is(http.MethodPost, "signatures/upload"))))
	again()
	await(t, "it does not say that it knows nothing of it", func() bool {
		return len(a.hs.Requests(liar.Of(a.UserID, liar.Is(http.MethodPut, "m.key.verification.cancel")))) > 0
	})
	again()
	if got := len(a.hs.Requests(liar.Of(a.UserID, liar.Is(http.MethodPost, "signatures/upload")))); got != uploads {
		t.Errorf("%d signatures were made", got-uploads)
	}
	if got := a.hs.Requests(liar.Of(a.UserID, liar.Is(http.MethodPut, "m.key.verification.(ready|accept|key|mac|done)"))); len(got) > 6 {
		t.Errorf("it goes on: %d messages", len(got))
	}
}

// sentMessage is a verification message as it went to the homeserver.
type sentMessage struct {
	kind    string
	content json.RawMessage
}

// collect has two people verify each other, bob asking, and returns what bob has sent.
func collect(a, b *person) []sentMessage {
	a.t.Helper()
	vb, va := compare(b, a)
	a.must(a.dev.ConfirmEmoji(a.t.Context(), va.ID, true))
	b.must(b.dev.ConfirmEmoji(a.t.Context(), vb.ID, true))
	a.newest(e2ee.VerificationDone)
	b.newest(e2ee.VerificationDone)
	var out []sentMessage
	for _, r := range b.hs.Requests(liar.Of(b.UserID, liar.Is(http.MethodPut, "sendToDevice/m.key.verification"))) {
		var body struct {
			Messages map[string]map[string]json.RawMessage `json:"messages"`
		}
		if err := json.Unmarshal(r.Body, &body); err != nil {
			a.t.Fatal(err)
		}
		if content := body.Messages[a.UserID]["ALICE"]; content != nil {
			kind := strings.Split(r.Path, "sendToDevice/")[1]
			out = append(out, sentMessage{strings.Split(kind, "/")[0], content})
		}
	}
	return out
}

// Attack: somebody sends requests without end, of devices that they make up. Memory and warnings
// stay few, the client sees none of it, and after two minutes all of it is over without a word:
// nothing was answered that would keep the other side busy.
func TestAttackFloodOfRequests(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	for i := range 300 {
		a.hs.SendToDevice(a.UserID, "ALICE", b.UserID, "m.key.verification.request", map[string]any{
			"from_device": fmt.Sprintf("D%d", i), "transaction_id": fmt.Sprintf("t%d", i), "methods": []string{"m.sas.v1"},
			"timestamp": time.Now().UnixMilli(),
		})
	}
	// Whoever asks last is heard when all before were.
	last := newPuppet(t, a.hs, "carol", "CAROL")
	a.hs.SendToDevice(a.UserID, "ALICE", last.UserID, "m.key.verification.request", map[string]any{
		"from_device": "CAROL", "transaction_id": "last", "methods": []string{"m.sas.v1"}, "timestamp": time.Now().UnixMilli(),
	})
	await(t, "the requests do not come", func() bool {
		all, err := a.dev.Verifications(t.Context())
		return err == nil && slices.ContainsFunc(all, func(v e2ee.Verification) bool { return v.UserID == idUser(last.UserID) })
	})
	if all, err := a.dev.Verifications(t.Context()); err != nil || len(all) > 5 {
		t.Errorf("%d verifications of two users, %v", len(all), err)
	}
	await(t, "there is no warning", func() bool {
		all, err := a.dev.Warnings(t.Context())
		return err == nil && slices.ContainsFunc(all, func(w e2ee.Warning) bool {
			return w.Code == "verification_requested" && w.UserID == idUser(b.UserID)
		})
	})
	a.rig.later(3 * time.Minute)
	await(t, "the warning does not end", func() bool {
		if _, err := a.dev.Verifications(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, still := warningCodes(t, a.dev)["verification_requested"]
		return !still
	})
	if sent := a.hs.Requests(liar.Of(a.UserID, liar.Is(http.MethodPut, "m.key.verification"))); len(sent) > 0 {
		t.Errorf("%d messages went out", len(sent))
	}
}

// Attack: somebody asks and cancels, again and again. A warning stays in the database for ever, so
// that each request would leave a row. All requests of a user are one.
func TestAttackRequestAndCancel(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	send := func(kind string, content map[string]any) {
		a.hs.SendToDevice(a.UserID, "ALICE", b.UserID, "m.key.verification."+kind, content)
		if err := a.dev.SyncNow(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		txn := fmt.Sprintf("t%d", i)
		send("request", map[string]any{
			"from_device": "BOB", "transaction_id": txn, "methods": []string{"m.sas.v1"}, "timestamp": a.rig.now().UnixMilli(),
		})
		send("cancel", map[string]any{"transaction_id": txn, "code": "m.user", "reason": ""})
		await(t, "a request is not heard, or does not end", func() bool {
			all, err := a.dev.Verifications(t.Context())
			return err == nil && len(all) == i+1 && all[0].State == e2ee.VerificationCancelled
		})
	}
	await(t, "the warning does not end", func() bool { return len(warningCodes(t, a.dev)) == 0 })
	acct, err := a.rig.db.LookupAccount(t.Context(), idUser(a.UserID))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := a.rig.db.Warnings(t.Context(), acct)
	if err != nil {
		t.Fatal(err)
	}
	if rows = slices.DeleteFunc(rows, func(w store.Warning) bool { return w.Code != "verification_requested" }); len(rows) != 1 {
		t.Errorf("%d rows", len(rows))
	}
}

// Attack: the homeserver holds messages back until somebody's attention is elsewhere. A
// verification that takes longer than ten minutes is over, whatever comes then.
func TestAttackDelayedVerification(t *testing.T) {
	t.Parallel()
	a, b := two(t)
	va, vb := compare(a, b)
	a.rig.later(11 * time.Minute)
	if _, err := a.dev.ConfirmEmoji(t.Context(), va.ID, true); !errors.Is(err, e2ee.ErrVerificationStep) {
		t.Errorf("confirming after ten minutes: %v", err)
	}
	if v := a.newest(e2ee.VerificationCancelled); v.CancelCode != "m.timeout" {
		t.Errorf("it is %s (%s)", v.State, v.CancelCode)
	}
	await(t, "bob is not told", func() bool {
		v, err := b.dev.Verification(t.Context(), vb.ID)
		return err == nil && v.CancelCode == "m.timeout"
	})
	if a.knows(b) != "pinned" {
		t.Errorf("bob is %s", a.knows(b))
	}
}

// Attack: a request that says it comes from another device of alice's, which is not confirmed or
// does not exist, reaches a bot that confirms its own devices unseen. It waits for a person like
// any other; and so does one of another user.
func TestAttackUnseenByAStranger(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	a := &person{t: t, hs: hs, Session: hs.Login("alice", "ALICE")}
	a.rig = newRig(t, hs, func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings { return e2ee.AccountSettings{AutoVerifyOwn: true} }
	})
	a.dev = a.rig.device(a.Session)
	ready(t, a.dev)
	hs.Login("alice", "UNSIGNED")
	for i, from := range []struct{ user, device string }{{a.UserID, "UNSIGNED"}, {a.UserID, "GHOST"}, {"@bob:hs.test", "BOB"}} {
		hs.SendToDevice(a.UserID, "ALICE", from.user, "m.key.verification.request", map[string]any{
			"from_device": from.device, "transaction_id": fmt.Sprintf("t%d", i), "methods": []string{"m.sas.v1"}, "timestamp": time.Now().UnixMilli(),
		})
	}
	await(t, "the requests do not come", func() bool {
		all, err := a.dev.Verifications(context.Background())
		return err == nil && len(all) == 3
	})
	all, err := a.dev.Verifications(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.State != e2ee.VerificationRequested {
			t.Errorf("%s of %s is %s", v.DeviceID, v.UserID, v.State)
		}
	}
	if sent := hs.Requests(liar.Of(a.UserID, liar.Is(http.MethodPut, "m.key.verification"))); len(sent) > 0 {
		t.Errorf("%d messages went out", len(sent))
	}
}

// Attack: the homeserver makes up an identity and a confirmed device before a bot is set up that
// confirms its own devices unseen, and lets that device verify the bot. Nobody compared the emoji.
// The bot is confirmed and may send, which the homeserver could have had anyway; but the identity
// is no more trusted than before: the bot gives the device no room key that it requests, and takes
// no backup key from it, so that what it received earlier is not written to the homeserver's backup.
// Once its owner has compared, it is.
func TestAttackUnseenByAMadeUpIdentity(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	made := newPerson(t, hs, "alice", "MADEUP")
	bot := &person{t: t, hs: hs, Session: hs.Login("alice", "BOT")}
	bot.rig = newRig(t, hs, func(o *e2ee.Options) {
		o.Account = func(id.UserID) e2ee.AccountSettings { return e2ee.AccountSettings{AutoVerifyOwn: true} }
	})
	bot.dev = bot.rig.device(bot.Session)
	settle(t, bot.dev)

	made.must(made.dev.RequestVerification(t.Context(), idUser(bot.UserID), e2ee.VerificationPartner{DeviceID: "BOT"}))
	made.must(made.dev.StartEmoji(t.Context(), made.newest(e2ee.VerificationReady).ID))
	made.must(made.dev.ConfirmEmoji(t.Context(), made.newest(e2ee.VerificationCompare).ID, true))
	made.newest(e2ee.VerificationDone)
	bot.newest(e2ee.VerificationDone)
	await(t, "the bot is not confirmed", func() bool { return status(t, bot.dev).Identity.DeviceSigned })
	if _, err := bot.dev.Encrypt(t.Context(), e2ee.Outgoing{
		RoomID: idRoom(bot.newRoom()), Type: "m.room.message", TxnID: "t", Content: json.RawMessage(`{"body":"x","msgtype":"m.text"}`),
	}); err != nil {
		t.Errorf("the bot may not send: %v", err)
	}
	bot.processed()
	if hasBackupKey(t, bot.dev) || len(bot.dev.AskedFor()) > 0 {
		t.Errorf("a backup's key was taken, or is asked for: %v", bot.dev.AskedFor())
	}
	if s := status(t, bot.dev); s.Backup.Trusted || bot.knows(bot) != "pinned" {
		t.Errorf("the identity is %s, its backup %+v", bot.knows(bot), s.Backup)
	}

	flow := bot.must(bot.dev.RequestVerification(t.Context(), idUser(bot.UserID), e2ee.VerificationPartner{})).ID
	at := func(p *person, state e2ee.VerificationState) {
		await(t, fmt.Sprintf("at %s it is not %s", p.DeviceID, state), func() bool {
			v, err := p.dev.Verification(t.Context(), flow) // each of a user's devices calls it the same
			return err == nil && v.State == state
		})
	}
	at(made, e2ee.VerificationRequested)
	made.must(made.dev.AcceptVerification(t.Context(), flow))
	at(bot, e2ee.VerificationReady)
	bot.must(bot.dev.StartEmoji(t.Context(), flow))
	for _, p := range []*person{bot, made} {
		at(p, e2ee.VerificationCompare)
		p.must(p.dev.ConfirmEmoji(t.Context(), flow, true))
	}
	at(bot, e2ee.VerificationDone)
	await(t, "the backup's key does not come", func() bool { return hasBackupKey(t, bot.dev) })
}
