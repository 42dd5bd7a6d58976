package e2ee_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"

	"e2ee-proxy/internal/liar"
)

// hear makes a room with alice and a confirmed device of bob's whose first message she
// reads, so that its room key and owner are known to her.
func hear(t *testing.T, st *stage) (room string, bob *puppet, said *megolm) {
	t.Helper()
	bob, _ = confirmedPuppet(t, st.hs, "bob", "BOB")
	room = st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	said = bob.newMegolm(room)
	said.share(st.target())
	st.awaitText(said.say("hello"), "hello")
	return room, bob, said
}

// Attacks A1 and N1. The homeserver takes a message that alice has just encrypted and
// delivers it as somebody else's, so that her own words seem to be theirs. It decrypts
// well: the key is her own. The owner of a session is who made it, also when that is us.
func TestOwnCiphertextUnderAnotherSender(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	for _, sender := range []string{bob.UserID, "@nobody:liar.test", "nobody", "@alice:other.test"} {
		text := "alice said this, not " + sender
		enc, err := st.encrypt(st.outgoing(room, text))
		if err != nil {
			t.Fatal(err)
		}
		event := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: sender, Content: enc.Content})
		if code := st.wantHidden(event, clearText(text)); code != "MismatchedSender" {
			t.Errorf("from %s: %s", sender, code)
		}
	}
}

// Attack A2. The same with somebody else's session: bob's message comes as that of
// another member, of somebody who is no member, of nobody, and of alice herself.
func TestCiphertextOfAnotherSession(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	st.hs.Inject(room, memberEvent(carol.UserID, "join"))
	for _, sender := range []string{carol.UserID, "@nobody:liar.test", "nobody", st.alice.UserID, bob.UserID + "x"} {
		text := "bob said this, not " + sender
		event := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: sender, Content: said.seal(said.text(text))})
		if code := st.wantHidden(event, text); code != "MismatchedSender" {
			t.Errorf("from %q: %s", sender, code)
		}
	}
}

func memberEvent(user, membership string) liar.Event {
	content, _ := json.Marshal(map[string]string{"membership": membership})
	return liar.Event{Type: "m.room.member", Sender: user, StateKey: &user, Content: content}
}

// Attack A3. A message is moved to another room, where it means something else: as it
// is, with a room key that names the other room, and with the members in clear that a
// bridge uses to say that a room was renamed. The room inside the ciphertext decides.
func TestCiphertextMovedToAnotherRoom(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	other := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	moved := func(change map[string]any, text string) json.RawMessage {
		content := make(map[string]any)
		if err := json.Unmarshal(said.seal(said.text(text)), &content); err != nil {
			t.Fatal(err)
		}
		maps.Copy(content, change)
		raw, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	inject := func(content json.RawMessage) string {
		return st.hs.Inject(other, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: content})
	}
	event := inject(moved(nil, "without a key for the other room"))
	if code := st.wantHidden(event, "without a key for the other room"); code != "MissingRoomKey" {
		t.Error(code)
	}
	// Bob himself is not the attacker; somebody who has the key can send it on as it is.
	bob.sendOlm(st.target(), bob.envelope(st.target(), "m.room_key", roomKey(other, said.ID().String(), said.export())))
	for i, change := range []map[string]any{nil, {"room_id": room}, {"com.beeper.original_room_id": room}} {
		text := fmt.Sprintf("moved %d", i)
		if code := st.wantHidden(inject(moved(change, text)), text); code != "Malformed" {
			t.Errorf("%v: %s", change, code)
		}
	}
}

// Attack A4. The homeserver delivers a message again as a new event, at once, after more
// messages than are remembered in memory, after a restart, and as the same event at
// another time. What alice was told once is not told again as something new.
func TestReplayedMessage(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	content := said.seal(said.text("pay"))
	first := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: content})
	st.awaitText(first, "pay")
	again := func(when string) {
		t.Helper()
		event := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: content})
		if code := st.wantHidden(event, "pay"); code != "Replayed" {
			t.Errorf("%s: %s", when, code)
		}
	}
	again("at once")
	for i := range 600 {
		said.say(fmt.Sprintf("more %d", i))
	}
	again("after many others")
	st.again()
	again("after a restart")

	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "/sync$")), liar.Edit(func(_ *liar.Request, body map[string]any) {
		eachEvent(body, func(ev map[string]any) {
			if ev["event_id"] == first {
				ev["origin_server_ts"] = 1
			}
		})
	}))()
	st.since = ""
	delete(st.shown, first)
	if len(st.hs.Events(room)) < 20 {
		t.Fatal("the room has too few events for the test to mean anything")
	}
	st.hs.Inject(room, liar.Event{ID: first, Type: "m.room.encrypted", Sender: bob.UserID, Content: content})
	if code := st.wantHidden(first, "pay"); code != "Replayed" {
		t.Errorf("at another time: %s", code)
	}
}

// eachEvent visits the timeline events of a sync response.
func eachEvent(body map[string]any, visit func(ev map[string]any)) {
	rooms, _ := body["rooms"].(map[string]any)
	joined, _ := rooms["join"].(map[string]any)
	for _, one := range joined {
		room, _ := one.(map[string]any)
		timeline, _ := room["timeline"].(map[string]any)
		events, _ := timeline["events"].([]any)
		for _, ev := range events {
			if ev, ok := ev.(map[string]any); ok {
				visit(ev)
			}
		}
	}
}

// Attack A4, in one response: of two events with one ciphertext only the first is shown.
func TestReplayInOneResponse(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	content := said.seal(said.text("once"))
	first := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: content})
	second := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: content})
	st.awaitText(first, "once")
	if code := st.wantHidden(second, "once"); code != "Replayed" {
		t.Error(code)
	}
	st.awaitText(first, "once")
}

// Attack A18, for room messages. A damaged ciphertext is refused and changes nothing: the
// one it was made of, and those before and after it, are read.
func TestDamagedRoomMessage(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	skipped := said.seal(said.text("before"))
	good := said.seal(said.text("whole"))
	var c map[string]string
	if err := json.Unmarshal(good, &c); err != nil {
		t.Fatal(err)
	}
	for i, change := range []func(string) string{
		func(s string) string { return flip(s, len(s)/2) },
		func(s string) string { return flip(s, len(s)-1) },
		func(s string) string { return flip(s, 4) }, // the index
		func(s string) string { return s[:len(s)-30] },
		func(string) string { return "AwgA" },
		func(string) string { return "!" },
	} {
		content, err := json.Marshal(map[string]string{"algorithm": megolmAlgorithm, "session_id": c["session_id"], "ciphertext": change(c["ciphertext"])})
		if err != nil {
			t.Fatal(err)
		}
		event := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: content})
		if code := st.wantHidden(event, "whole"); code != "Malformed" && code != "UnknownMessageIndex" {
			t.Errorf("change %d: %s", i, code)
		}
	}
	for text, content := range map[string]json.RawMessage{"whole": good, "before": skipped} {
		st.awaitText(st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: content}), text)
	}
	st.awaitText(said.say("after"), "after")
}

// flip changes one character of base64 to another.
func flip(s string, at int) string {
	b := []byte(s)
	if b[at] == 'A' {
		b[at] = 'B'
	} else {
		b[at] = 'A'
	}
	return string(b)
}

// What an event says beside its ciphertext of the device that sent it is not read: neither does
// a wrong name keep it from being read, nor does it become the name of who sent it (requirement
// 8.6).
func TestSenderNamedBesideACiphertext(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
	for i, beside := range []map[string]any{
		{"sender_key": mallory.curve25519, "device_id": mallory.DeviceID},
		{"sender_key": "not a key", "device_id": ""},
		{"sender_key": []any{}, "device_id": 1},
	} {
		text := fmt.Sprintf("beside %d", i)
		content := with(t, said.seal(said.text(text)), beside)
		st.wantFrom(st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: content}), text, bob)
	}
}

// A ciphertext that pretends to be state is refused: state is never encrypted, and a client would
// take it for the room's (requirement 8.9). So is one inside another.
func TestDecryptedState(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	for name, change := range map[string]map[string]any{
		"state":           {"type": "m.room.name", "state_key": "", "content": map[string]any{"name": "taken over"}},
		"a message":       {"state_key": ""},
		"with a null key": {"state_key": nil},
		"encrypted again": {"type": "m.room.encrypted"},
		"without a type":  {"type": ""},
	} {
		payload := said.text(name)
		maps.Copy(payload, change)
		event := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: said.seal(payload)})
		if code := st.wantHidden(event, name); code != "Malformed" {
			t.Errorf("%s: %s", name, code)
		}
	}
	st.awaitText(said.say("a message"), "a message")
}
