package e2ee_test

import (
	"bytes"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/secret"
)

// Apprise sends the transaction ID 0 after every login, and names a file and the text
// beside it alike. A homeserver drops the second event as a repetition of the first.
// Expected: another event under the same ID is an event of its own, and is counted; a
// repetition of either is the same event again, also after a restart; and a login keeps its
// IDs apart from those before it, which a new token of the same session does not.
func TestReusedTransactionID(t *testing.T) {
	t.Parallel()
	var reg *prometheus.Registry // of the engine that runs
	st := newStage(t, func(o *e2ee.Options) {
		reg = prometheus.NewRegistry()
		o.Metrics = reg
	})
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	file := st.outgoing(room, "a file")
	text := st.outgoing(room, "the text beside it")
	sticker := text
	sticker.Type = "m.sticker"
	file.TxnID, text.TxnID, sticker.TxnID = "0", "0", "0"
	all := []e2ee.Outgoing{file, text, sticker}

	made := map[string][]byte{} // by transaction ID
	events := map[string]bool{}
	for i, out := range all {
		enc, err := st.encrypt(out)
		if err != nil {
			t.Fatal(err)
		}
		if made[enc.TxnID] != nil || (enc.TxnID == "0") != (i == 0) {
			t.Errorf("%d is sent with the transaction ID %q", i, enc.TxnID)
		}
		made[enc.TxnID] = enc.Content
		if i < 2 { // the third has no answer
			events[st.put(out, enc)] = true
		}
	}
	if len(events) != 2 {
		t.Errorf("the homeserver has %v", events)
	}
	const counter = "e2ee_proxy_reused_transactions_total"
	if n := metric(t, reg, counter); n != 2 {
		t.Errorf("%v are counted", n)
	}
	again := func(when string) {
		t.Helper()
		for _, out := range all {
			enc, err := st.encrypt(out)
			if err != nil || enc.EventID == "" && !bytes.Equal(made[enc.TxnID], enc.Content) {
				t.Errorf("%s: %s is encrypted again under %q, %v", when, out.Type, enc.TxnID, err)
			}
		}
	}
	again("at once")
	if n := metric(t, reg, counter); n != 2 {
		t.Errorf("%v are counted after repetitions", n)
	}
	st.again()
	again("after a restart")
	if err := st.eng.Refreshed(t.Context(), id.UserID(st.alice.UserID), id.DeviceID(st.alice.DeviceID), secret.NewString("another token")); err != nil {
		t.Fatal(err)
	}
	again("after a refresh")

	st.loggedIn(st.alice, "")
	for range 2 {
		enc, err := st.encrypt(file)
		if err != nil || made[enc.TxnID] != nil || enc.EventID != "" {
			t.Fatalf("in a new session: %q, event %q, %v", enc.TxnID, enc.EventID, err)
		}
		if event := st.put(file, enc); events[event] {
			t.Errorf("in a new session it is %s again", event)
		}
		st.again()
	}
	fresh := st.outgoing(room, "for the first time")
	if enc, err := st.encrypt(fresh); err != nil || enc.TxnID != fresh.TxnID {
		t.Errorf("a new ID in a new session becomes %q, %v", enc.TxnID, err)
	}
}

// The same holds for what is sent in clear, in rooms that are not encrypted.
func TestReusedTransactionIDInClear(t *testing.T) {
	t.Parallel()
	var reg *prometheus.Registry // of the engine that runs
	st := newStage(t, func(o *e2ee.Options) {
		reg = prometheus.NewRegistry()
		o.Metrics = reg
	})
	named := func(room, kind, content, txn string) string {
		t.Helper()
		got, err := st.dev.ClearTransaction(t.Context(), e2ee.Outgoing{RoomID: id.RoomID(room), Type: kind, TxnID: txn, Content: []byte(content)})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	other := named("!r", "m.room.message", `{"body":"first"}`, "0")
	if other != "0" {
		t.Errorf("the first is %q", other)
	}
	if other = named("!r", "m.room.message", `{"body":"second"}`, "0"); other == "0" {
		t.Error("the second is the first again")
	}
	if n := metric(t, reg, "e2ee_proxy_reused_transactions_total"); n != 1 {
		t.Errorf("%v are counted", n)
	}
	st.again()
	for _, tt := range []struct{ kind, content, want string }{
		{"m.room.message", ` {"body":"first"}`, "0"},
		{"m.room.message", `{"body":"second"}`, other},
		{"m.sticker", `{"body":"second"}`, "0"}, // another path at the homeserver
	} {
		if got := named("!r", tt.kind, tt.content, "0"); got != tt.want {
			t.Errorf("%s %s is sent with %q, want %q", tt.kind, tt.content, got, tt.want)
		}
	}
	if got := named("!another", "m.room.message", `{"body":"second"}`, "0"); got != "0" {
		t.Errorf("in another room it is %q", got)
	}
	st.loggedIn(st.alice, "")
	if got := named("!r", "m.room.message", `{"body":"first"}`, "0"); got == "0" || got == other {
		t.Errorf("in a new session it is %q", got)
	}
	// A client that uses the names that are made here gets others.
	if got := named("!r", "m.room.message", `{"body":"third"}`, other); got == other {
		t.Error("the name of the second is given to the third")
	}
}

// A message was refused, and the answer to its repetition was lost. What is known of the first time says
// nothing of the second.
// Expected: a repetition after a refusal was not sent before; one after that may have been.
func TestRefusedTransactionIsSentAgain(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	out := st.outgoing(st.hs.CreateRoom(true, st.alice.UserID, bob.UserID), "once")
	made, err := st.encrypt(out)
	if err != nil || made.Again {
		t.Fatalf("made before: %t, %v", made.Again, err)
	}
	st.dev.NotSent(out, made.TxnID)
	for i, again := range []bool{false, true, true} {
		repeated, err := st.encrypt(out)
		if err != nil || repeated.Again != again || !bytes.Equal(repeated.Content, made.Content) || again && repeated.MadeAt.IsZero() {
			t.Errorf("repetition %d: perhaps sent before: %t, made at %v, %v", i+1, repeated.Again, repeated.MadeAt, err)
		}
	}
}
