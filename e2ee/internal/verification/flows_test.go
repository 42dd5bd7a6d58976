package verification

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/trustcache"
)

// fakeHost is a host that knows what its world does.
type fakeHost struct {
	w           *world
	kept        []byte
	sent        []Message
	interrupted []Verification
}

func (h *fakeHost) Keep(_ context.Context, flows []byte) error {
	h.kept = flows
	return nil
}
func (h *fakeHost) Kept(context.Context) ([]byte, error) { return h.kept, nil }
func (h *fakeHost) Interrupted(_ context.Context, v Verification) {
	h.interrupted = append(h.interrupted, v)
}

func (h *fakeHost) Known(_ context.Context, user id.UserID, _ id.DeviceID) (Known, error) {
	return Known{Now: h.w.now, Us: h.w.a.us, Them: h.w.a.users[user]}, nil
}

func (h *fakeHost) KnownAgain(ctx context.Context, user id.UserID) (Known, error) {
	return h.Known(ctx, user, "")
}

func (h *fakeHost) SendInRoom(context.Context, Message, id.RoomID) (id.EventID, error) {
	return "$event", nil
}

func (h *fakeHost) SendToDevices(_ context.Context, m Message, _ id.UserID) error {
	h.sent = append(h.sent, m)
	return nil
}
func (h *fakeHost) Record(context.Context, *Target) error { return nil }
func (h *fakeHost) ConfirmsUnseen() bool                  { return false }
func (h *fakeHost) Begun()                                {}
func (h *fakeHost) Waiting(context.Context)               {}

// flowsOf returns the verifications of alice's device.
func flowsOf(t *testing.T, w *world) *Flows {
	t.Helper()
	return flowsWith(t, w, &fakeHost{w: w})
}

func flowsWith(t *testing.T, w *world, h *fakeHost) *Flows {
	t.Helper()
	env := &core.Env{Now: func() time.Time { return w.now }}
	dev := &core.Device{Env: env, Account: &core.Account{Env: env, User: alice}, Self: core.Self{ID: w.a.us.Device}}
	x := New(dev, h)
	t.Cleanup(x.Stop)
	return &x
}

// says has somebody say something to alice's device, which handles it.
func (w *world) says(x *Flows, sender id.UserID, kind, txn string, members ...strictjson.Member) error {
	w.t.Helper()
	at := strictjson.Member{Name: "timestamp", Value: []byte(strconv.FormatInt(w.now.UnixMilli(), 10))}
	content := append(strictjson.Object{text("transaction_id", txn), at}, members...).Encode()
	ev, ok := OfDevice(Prefix+kind, sender, content)
	if !ok {
		w.t.Fatalf("%s is malformed: %s", kind, content)
	}
	return x.handle(w.t.Context(), &ev)
}

func (w *world) asks(x *Flows, sender id.UserID, device, txn string) {
	w.t.Helper()
	if err := w.says(x, sender, typeRequest, txn, text("from_device", device), list("methods", methods()...)); err != nil {
		w.t.Fatal(err)
	}
}

// Attack: somebody asks and cancels without end, each time a few writes. After ten at once the
// next are not heard before a minute has passed; others are.
func TestAttackRequestsWithoutEnd(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	x := flowsOf(t, w)
	n := 0
	cycle := func(sender id.UserID) (heard bool) {
		n++
		txn := fmt.Sprintf("t%d", n)
		w.asks(x, sender, "BOB", txn)
		heard = len(x.Asking()) == 1
		if err := w.says(x, sender, typeCancel, txn, text("code", codeUser)); err != nil {
			t.Fatal(err)
		}
		return heard
	}
	for i := range 3 * maxRequests {
		if heard := cycle(bob); heard != (i < maxRequests) {
			t.Fatalf("request %d: heard %v", i+1, heard)
		}
	}
	if !cycle("@carol:hs") {
		t.Error("somebody else is not heard")
	}
	w.now = w.now.Add(requestEvery)
	if !cycle(bob) || cycle(bob) {
		t.Error("after a minute one is heard")
	}
}

// Attack: strangers fill the list of verifications with requests that nobody answers, so that
// alice's other device cannot verify this one, and she asks nobody herself.
func TestAttackStrangersFillTheList(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	x := flowsOf(t, w)
	for i := range 2 * maxFlows / maxPerUser {
		for j := range maxPerUser {
			w.asks(x, id.UserID(fmt.Sprintf("@s%d:hs", i)), fmt.Sprintf("D%d", j), fmt.Sprintf("t%d-%d", i, j))
		}
	}
	if n := len(x.Asking()); n != maxOthers {
		t.Fatalf("%d strangers wait, want %d", n, maxOthers)
	}
	w.asks(x, alice, "OTHER", "own")
	if all := x.List(t.Context()); len(all) != maxOthers+1 {
		t.Error("the own device is not heard")
	}
	choose := func(Known) ([]id.DeviceID, error) { return []id.DeviceID{"BOB"}, nil }
	if _, err := x.Request(t.Context(), bob, "", choose); err != nil {
		t.Errorf("alice asks bob: %v", err)
	}
}

// Attack: many users ask and cancel. What is over is kept for ten minutes, so that memory
// and each look at the list would grow with all of them. The newest few are kept, without what
// the other side can make large.
func TestAttackManyOver(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	x := flowsOf(t, w)
	v, err := x.Request(t.Context(), bob, "", func(Known) ([]id.DeviceID, error) { return []id.DeviceID{"BOB"}, nil })
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Cancel(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	for i := range 10 * maxOver {
		user, txn := id.UserID(fmt.Sprintf("@s%d:hs", i)), fmt.Sprintf("t%d", i)
		w.now = w.now.Add(time.Millisecond)
		w.asks(x, user, "D", txn)
		if err := w.says(x, user, typeCancel, txn, text("code", codeUser)); err != nil {
			t.Fatal(err)
		}
	}
	if len(x.all) != maxOver {
		t.Errorf("%d are kept, want %d", len(x.all), maxOver)
	}
	for _, f := range x.all {
		if f.theirs != nil || f.asked != nil || f.seen != nil {
			t.Errorf("%s keeps %q, %q and %d digests", f.ID, f.theirs, f.asked, len(f.seen))
		}
	}
	if newest := x.get(flowID("", id.UserID(fmt.Sprintf("@s%d:hs", 10*maxOver-1)), fmt.Sprintf("t%d", 10*maxOver-1))); newest == nil {
		t.Error("the newest is not kept")
	}
	if x.get(v.ID) == nil {
		t.Error("how her own ended is not kept")
	}
}

// A server that does not answer for a moment has changed no keys: what comes then is handled
// again, and a person is told to try again. Nothing ends with m.key_mismatch, as it does when
// the keys have changed; that the emoji do not match needs no server.
func TestTheirServerDoesNotAnswer(t *testing.T) {
	t.Parallel()
	w := twoUsers(t)
	x := flowsOf(t, w)
	them := w.a.users[bob]
	unknown := &trustcache.User{UserID: bob}
	w.asks(x, bob, "BOB", "txn")
	flow := flowID("", bob, "txn")
	decide := func(d Decide) error {
		_, err := x.Decided(t.Context(), flow, d)
		return err
	}
	if err := decide(Flow.Accept); err != nil {
		t.Fatal(err)
	}
	w.a.users[bob] = unknown
	if err := decide(Flow.Emoji); !errors.Is(err, core.ErrCannotEncrypt) {
		t.Errorf("choosing emoji: %v", err)
	}
	started := func() error {
		return w.says(x, bob, typeStart, "txn", text("from_device", "BOB"), text("method", methodSAS), list("key_agreement_protocols", agreement),
			list("hashes", hashing), list("message_authentication_codes", macMethod), list("short_authentication_string", decimal, emoji))
	}
	if err := started(); !errors.Is(err, core.ErrCannotEncrypt) || x.get(flow).state != Ready {
		t.Errorf("a start: %v, it is %s (%s)", err, x.get(flow).state, x.get(flow).code)
	}
	w.a.users[bob] = them
	if err := started(); err != nil || x.get(flow).state != Started {
		t.Errorf("the same again: %v, it is %s (%s)", err, x.get(flow).state, x.get(flow).code)
	}
	key, err := newEphemeral()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.says(x, bob, typeKey, "txn", text("key", key.public())); err != nil || x.get(flow).state != Compare {
		t.Fatalf("a key: %v, it is %s (%s)", err, x.get(flow).state, x.get(flow).code)
	}
	w.a.users[bob] = unknown
	if err := decide(confirm(true)); !errors.Is(err, core.ErrCannotEncrypt) || x.get(flow).state != Compare {
		t.Errorf("confirming: %v, it is %s (%s)", err, x.get(flow).state, x.get(flow).code)
	}
	if err := decide(confirm(false)); err != nil || x.get(flow).code != codeSAS {
		t.Errorf("other emoji: %v, it is %s (%s)", err, x.get(flow).state, x.get(flow).code)
	}
}
