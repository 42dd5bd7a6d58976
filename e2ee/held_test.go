package e2ee_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// holdingStage returns a stage whose client is shown a placeholder at last.
func holdingStage(t *testing.T) *stage {
	t.Helper()
	return newStage(t, func(o *e2ee.Options) { o.Undecryptable = e2ee.UndecryptableHold })
}

// keyed returns a session whose key reaches alice when give is called.
func keyed(st *stage, bob *puppet, room string) (said *megolm, give func()) {
	said = bob.newMegolm(room)
	key := roomKey(room, said.ID().String(), said.export())
	return said, func() { bob.sendOlm(st.target(), bob.envelope(st.target(), "m.room_key", key)) }
}

// isPlaceholder reports whether a client is shown a message that says that there is one.
func isPlaceholder(ev map[string]any) bool {
	content := contentOf(ev)
	return ev != nil && ev["type"] == "m.room.message" && content["msgtype"] == "m.notice" &&
		content["ciphertext"] == nil && content["algorithm"] == nil && codeOf(ev) != "" && ev["decrypted"] == nil
}

// Reported: simplematrixbotlib 2.13.1 posts "Failed to decrypt your message" into the room for
// every m.room.encrypted that it sees, so a key that comes a moment late makes it talk. An
// event whose key can still come is held, and the clear one is all that the client sees.
func TestEventIsHeldUntilItsKeyComes(t *testing.T) {
	t.Parallel()
	st := holdingStage(t)
	room, bob, _ := hear(t, st)
	said, give := keyed(st, bob, room)
	event := said.say("a moment early")
	st.sync()
	st.again() // also through a restart
	st.sync()
	st.later(4 * time.Minute)
	st.sync()
	if got := st.shown[event]; got != nil {
		t.Fatalf("the client is shown %v", got)
	}
	give()
	await(t, "the event does not come", func() bool {
		st.sync()
		if got := st.shown[event]; got != nil && got["type"] != "m.room.message" {
			t.Fatalf("the client is shown %v", got)
		}
		return bodyOf(st.shown[event]) == "a moment early"
	})
	st.later(10 * time.Minute)
	delete(st.shown, event)
	for range 3 {
		st.sync()
	}
	if st.shown[event] != nil {
		t.Errorf("it comes again: %v", st.shown[event])
	}
}

// An event whose key does not come within five minutes is shown as a placeholder, which says
// so, in a sync that does not wait for anything else. A response that got lost carries it
// again, a restart loses nothing, and the clear event comes whenever the key does.
func TestHeldEventBecomesAPlaceholder(t *testing.T) {
	t.Parallel()
	st := holdingStage(t)
	room, bob, _ := hear(t, st)
	said, give := keyed(st, bob, room)
	event := said.say("hours late")
	st.sync()
	st.again()
	st.later(5*time.Minute + time.Second)
	before := st.since
	in, err := st.dev.BeginSync(t.Context(), before)
	if err != nil {
		t.Fatal(err)
	}
	if !in.Waiting() {
		t.Error("the client's sync waits at the homeserver")
	}
	in.End()
	for range 3 { // the client gets no answer, and asks again
		st.hs.Inject(room, liar.Event{Type: "m.reaction", Sender: bob.UserID, Content: json.RawMessage(`{}`)}) // the position moves
		delete(st.shown, event)
		st.since = before
		st.sync()
		if !isPlaceholder(st.shown[event]) || codeOf(st.shown[event]) != "MissingRoomKey" {
			t.Fatalf("the client is shown %v", st.shown[event])
		}
	}
	delete(st.shown, event)
	st.again()
	for range 3 {
		st.sync()
	}
	if got := st.shown[event]; got != nil {
		t.Errorf("the placeholder comes again: %v", got)
	}
	in, err = st.dev.BeginSync(t.Context(), st.since)
	if err != nil {
		t.Fatal(err)
	}
	if in.Waiting() {
		t.Error("the client's syncs do not wait any more")
	}
	in.End()
	give()
	st.awaitText(event, "hours late")
	if got := st.shown[event]; got["event_id"] != event || got["decrypted"] != true {
		t.Errorf("the client is shown %v", got)
	}
}

// The key may come while the response with the placeholder is on its way.
func TestKeyBehindAPlaceholder(t *testing.T) {
	t.Parallel()
	st := holdingStage(t)
	room, bob, _ := hear(t, st)
	said, give := keyed(st, bob, room)
	event := said.say("close")
	st.sync()
	st.later(6 * time.Minute)
	st.sync()
	if !isPlaceholder(st.shown[event]) {
		t.Fatalf("the client is shown %v", st.shown[event])
	}
	give()
	st.told()
	st.awaitText(event, "close")
}

// A sync that waits at the homeserver ends when an event was held long enough.
func TestHeldEventWakesASync(t *testing.T) {
	t.Parallel()
	st := holdingStage(t)
	room, bob, _ := hear(t, st)
	said, _ := keyed(st, bob, room)
	said.say("nobody reads this")
	st.sync()
	st.later(5*time.Minute - 200*time.Millisecond)
	in, err := st.dev.BeginSync(t.Context(), st.since)
	if err != nil {
		t.Fatal(err)
	}
	defer in.End()
	arrived := in.Arrived()
	select {
	case <-arrived.Done():
	case <-time.After(30 * time.Second):
		t.Error("the sync is not woken")
	}
}

// An event of which it is known that its key will not come is shown as a placeholder at once:
// one whose sender gave us no key, one that is damaged, and what is old when a client begins.
func TestNothingIsHeldInVain(t *testing.T) {
	t.Parallel()
	st := holdingStage(t)
	room, bob, said := hear(t, st)
	refused, _ := keyed(st, bob, room)
	st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, bob.UserID, "m.room_key.withheld", map[string]any{
		"algorithm": megolmAlgorithm, "room_id": room, "session_id": refused.ID().String(), "sender_key": bob.curve25519,
		"code": "m.unauthorised", "reason": "no",
	})
	st.told()
	text := said.text("x")
	text["room_id"] = "!elsewhere:liar.test"
	for name, event := range map[string]string{
		"Withheld":  refused.say("not for you"),
		"Malformed": st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: said.seal(text)}),
	} {
		st.sync()
		if got := st.shown[event]; !isPlaceholder(got) || codeOf(got) != name {
			t.Errorf("%s is shown as %v", name, got)
		}
	}
	key := ""
	state := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", StateKey: &key, Sender: bob.UserID, Content: json.RawMessage(`{"algorithm":"x"}`)})
	st.sync()
	if got := st.shown[state]; !isPlaceholder(got) {
		t.Errorf("encrypted state is shown as %v", got)
	}
	old, give := keyed(st, bob, room)
	event := old.say("before it began")
	st.since = ""
	st.sync()
	if !isPlaceholder(st.shown[event]) {
		t.Errorf("a first sync shows %v", st.shown[event])
	}
	give()
	st.awaitText(event, "before it began")
}

// The sender says only after the event that its key will not come, as one does who was asked for it,
// or whose request was slow. The client has waited long enough; and the key comes all the same.
func TestNothingIsHeldThatIsWithheldLater(t *testing.T) {
	t.Parallel()
	for name, own := range map[string]bool{"its client syncs": false, "the proxy syncs": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := holdingStage(t)
			room, bob, _ := hear(t, st)
			said, give := keyed(st, bob, room)
			event := said.say("not for you yet")
			if st.sync(); st.shown[event] != nil {
				t.Fatalf("the client is shown %v", st.shown[event])
			}
			st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, bob.UserID, "m.room_key.withheld", map[string]any{
				"algorithm": megolmAlgorithm, "room_id": room, "session_id": said.ID().String(), "sender_key": bob.curve25519,
				"code": "m.unverified", "reason": "no",
			})
			if own {
				st.told()
			}
			st.sync()
			if got := st.shown[event]; !isPlaceholder(got) || codeOf(got) != "Withheld" {
				t.Fatalf("the client is shown %v", got)
			}
			give()
			st.awaitText(event, "not for you yet")
		})
	}
}

// What was shown once is not taken away when the client asks for the same part again, and an
// event that comes again is held no longer for it.
func TestEventThatComesAgainIsHeldNoLonger(t *testing.T) {
	t.Parallel()
	st := holdingStage(t)
	room, bob, _ := hear(t, st)
	said, _ := keyed(st, bob, room)
	before := st.since
	event := said.say("again and again")
	for range 4 {
		st.since = before
		st.sync()
		if got := st.shown[event]; got != nil {
			t.Fatalf("the client is shown %v", got)
		}
		st.later(70 * time.Second)
	}
	st.later(70 * time.Second)
	for range 2 {
		delete(st.shown, event)
		st.since = before
		st.sync()
		if !isPlaceholder(st.shown[event]) {
			t.Fatalf("the client is shown %v", st.shown[event])
		}
	}
}

// Anybody in a room can send what nobody can read. However much that is, nothing is lost
// from the timeline: what is too much to be held is shown as a placeholder at once.
func TestManyHeldEvents(t *testing.T) {
	t.Parallel()
	st := holdingStage(t)
	room, bob, _ := hear(t, st)
	said, _ := keyed(st, bob, room)
	content := said.seal(said.text("spam"))
	var in []e2ee.Incoming
	for i := range 1200 {
		raw := map[string]any{"type": "m.room.encrypted", "event_id": "$" + strings.Repeat("x", i%7) + time.Duration(i).String(), "sender": bob.UserID, "content": content}
		in = append(in, e2ee.Incoming{RoomID: id.RoomID(room), Event: with(t, json.RawMessage(`{}`), raw), Redeliver: true, Hold: true})
	}
	out, err := st.dev.Open(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]bool{}
	for i := range out {
		if out[i].Hidden {
			held[readShown(t, in[i].Event).EventID] = true
		} else if !out[i].Withheld {
			t.Fatalf("shown: %s", out[i].Event)
		}
	}
	if len(held) != 1000 {
		t.Errorf("%d are held", len(held))
	}
	st.later(6 * time.Minute)
	st.again()
	await(t, "not all of them are shown", func() bool {
		st.sync()
		maps.DeleteFunc(held, func(event string, _ bool) bool { return isPlaceholder(st.shown[event]) })
		return len(held) == 0
	})
}

// The other two ways: a placeholder at once, and the event as it came. The clear event
// follows in both.
func TestUndecryptableOtherwise(t *testing.T) {
	t.Parallel()
	for how, placeholder := range map[e2ee.Undecryptable]bool{e2ee.UndecryptablePlaceholder: true, e2ee.UndecryptableEvent: false} {
		st := newStage(t, func(o *e2ee.Options) { o.Undecryptable = how })
		room, bob, _ := hear(t, st)
		said, give := keyed(st, bob, room)
		event := said.say("late")
		st.sync()
		if got := st.shown[event]; isPlaceholder(got) != placeholder || codeOf(got) != "MissingRoomKey" {
			t.Errorf("%d: the client is shown %v", how, got)
		}
		give()
		st.awaitText(event, "late")
	}
}

// An event that was held, and that may not be shown once its key has come, because of the
// device that sent it, does not vanish either.
func TestHeldEventOfAnUnsignedDevice(t *testing.T) {
	t.Parallel()
	st := holdingStage(t)
	room, _, _ := hear(t, st)
	eve := silentPuppet(t, st.hs, st.hs.Login("bob", "EVE"))
	eve.upload(map[string]any{"device_keys": eve.deviceKeys()})
	st.told()
	said, give := keyed(st, eve, room)
	event := said.say("words of eve")
	st.sync()
	if st.shown[event] != nil {
		t.Fatalf("the client is shown %v", st.shown[event])
	}
	give()
	await(t, "the event does not come", func() bool {
		st.sync()
		return st.shown[event] != nil
	})
	if got := st.shown[event]; !isPlaceholder(got) || holds(got, "words of eve") || codeOf(got) == "MissingRoomKey" {
		t.Errorf("the client is shown %v", got)
	}
	delete(st.shown, event)
	for range 3 {
		st.sync()
	}
	if st.shown[event] != nil {
		t.Errorf("it comes again: %v", st.shown[event])
	}
}
