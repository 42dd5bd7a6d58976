package e2ee_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"testing"

	"maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/liar"
)

// note is a to-device message for alice's client, which is handed on when its sender is
// confirmed.
const noteType = "org.example.note"

// heardNotes counts how often the client was handed a note.
func (st *stage) heardNotes(body string) (n int) {
	st.t.Helper()
	st.sync()
	for _, ev := range st.heard {
		if ev.Type == noteType && ev.Content["body"] == body {
			n++
		}
	}
	return n
}

// deliver gives alice's device an Olm message of a puppet's.
func (st *stage) deliver(from *puppet, content map[string]any) {
	st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, from.UserID, "m.room.encrypted", content)
}

// olmBody returns what an Olm message holds for alice.
func (st *stage) olmBody(content map[string]any) map[string]any {
	st.t.Helper()
	body, ok := content["ciphertext"].(map[string]any)[st.target().curve25519.String()].(map[string]any)
	if !ok {
		st.t.Fatalf("%v is not for alice", content)
	}
	return body
}

// copyOf returns a message that can be changed.
func copyOf(t *testing.T, content map[string]any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// known has alice and bob exchange a message, so that bob is known to be confirmed.
func (st *stage) known(bob *puppet) (room string) {
	st.t.Helper()
	room = st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	reads(st.t, bob, st.send(room, "hello"))
	return room
}

// Attacks A4 and A17. A message that was made with alice's fallback key could be opened
// for as long as she has that key. The homeserver delivers it again: as it was, in other
// words of base64, with more around the part that is protected, as that of the same key
// in another spelling, after a restart, and after its session was forgotten. Alice's
// client is handed it once.
func TestRepeatedPreKeyMessage(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	st.known(bob)
	st.sync()
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/upload$")), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))()
	for st.hs.OneTimeKeyCount(st.alice.UserID, st.alice.DeviceID) > 0 {
		bob.claim(st.target())
	}
	fresh := func() {
		s, err := bob.acc.NewOutboundSession(st.target().curve25519, bob.claim(st.target()))
		if err != nil {
			t.Fatal(err)
		}
		bob.sessions[st.target().curve25519] = []olm.Session{s}
	}
	note := func(body string) map[string]any {
		plain := bob.envelope(st.target(), noteType, map[string]any{"body": body})
		delete(plain, "sender_device_keys") // as older clients send: nothing in it names the key
		return bob.sealOlm(st.target(), plain)
	}
	fresh()
	once := note("once")
	st.deliver(bob, once)
	await(t, "the note does not come", func() bool { return st.heardNotes("once") == 1 })

	again := func(when string) {
		t.Helper()
		st.deliver(bob, once)
		lines := copyOf(t, once)
		body := st.olmBody(lines)["body"].(string)
		st.olmBody(lines)["body"] = body[:40] + "\n" + body[40:]
		st.deliver(bob, lines)
		longer := copyOf(t, once)
		raw, err := base64.RawStdEncoding.DecodeString(body)
		if err != nil {
			t.Fatal(err)
		}
		st.olmBody(longer)["body"] = rawBase64(append(raw, 0x30, 0x01)) // a member that nobody knows
		st.deliver(bob, longer)
		masked := copyOf(t, longer) // a bit that key agreement ignores
		key, err := base64.RawStdEncoding.DecodeString(bob.curve25519.String())
		if err != nil {
			t.Fatal(err)
		}
		other := bytes.Clone(key)
		other[31] |= 0x80
		masked["sender_key"] = rawBase64(other)
		st.olmBody(masked)["body"] = rawBase64(bytes.Replace(raw, key, other, 1))
		st.deliver(bob, masked)
		loose := copyOf(t, longer) // two bits of the last letter of base64 say nothing
		spelled := []byte(bob.curve25519.String())
		spelled[42]++
		loose["sender_key"] = string(spelled)
		st.deliver(bob, loose)
		if n := st.heardNotes("once"); n != 1 {
			t.Errorf("%s: the client was handed it %d times", when, n)
		}
	}
	again("at once")
	st.again()
	again("after a restart")
	for i := range 8 { // more sessions than are kept
		fresh()
		st.deliver(bob, note(fmt.Sprintf("another session %d", i)))
	}
	await(t, "the other notes do not come", func() bool { return st.heardNotes("another session 7") == 1 })
	again("after its session was forgotten")
	st.deliver(bob, note("the channel is sound"))
	await(t, "the last note does not come", func() bool { return st.heardNotes("the channel is sound") == 1 })
}

// A to-device message in clear, which anybody can have sent, says that it was decrypted. A
// client can tell it from one that was.
func TestToDeviceMessageInClear(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	st.known(bob)
	st.sync()
	forged := func(_ *liar.Request, body map[string]any) {
		messages, _ := body["to_device"].(map[string]any)
		events, _ := messages["events"].([]any)
		for _, ev := range events {
			ev.(map[string]any)["decrypted"] = true
		}
	}
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "/sync$")), liar.Edit(forged))()
	st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, bob.UserID, noteType, map[string]any{"body": "in clear"})
	st.deliver(bob, bob.sealOlm(st.target(), bob.envelope(st.target(), noteType, map[string]any{"body": "sealed"})))
	await(t, "the notes do not come", func() bool { return st.heardNotes("sealed") == 1 && st.heardNotes("in clear") == 1 })
	for _, ev := range st.heard {
		if ev.Decrypted != (ev.Content["body"] == "sealed") {
			t.Errorf("%v: decrypted is %v", ev.Content, ev.Decrypted)
		}
	}
}

// Attack A18, for messages of a session that both sides have used. Damaged ones change
// nothing, wherever they are damaged: the one they were made of is read, and those before
// and after it.
func TestDamagedOlmMessage(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.known(bob)
	bob.listen()
	note := func(body string) map[string]any {
		return bob.sealOlm(st.target(), bob.envelope(st.target(), noteType, map[string]any{"body": body}))
	}
	st.deliver(bob, note("first"))
	await(t, "the first note does not come", func() bool { return st.heardNotes("first") == 1 })
	skipped, whole := note("skipped"), note("whole")
	if st.olmBody(whole)["type"] != int(id.OlmMsgTypeMsg) {
		t.Fatal("bob's messages still begin a session: the test means nothing")
	}
	body := st.olmBody(whole)["body"].(string)
	for at := 0; at < len(body); at += 1 + len(body)/40 {
		bad := copyOf(t, whole)
		st.olmBody(bad)["body"] = flip(body, at)
		st.deliver(bob, bad)
	}
	for _, cut := range []string{"", "A", body[:4], body[:60], body[:len(body)-4], body + "AAAA", "====", "\x00"} {
		bad := copyOf(t, whole)
		st.olmBody(bad)["body"] = cut
		st.deliver(bob, bad)
	}
	for _, kind := range []int{0, 2, -1, 1 << 31} {
		bad := copyOf(t, whole)
		st.olmBody(bad)["type"] = kind
		st.deliver(bob, bad)
	}
	if n := st.heardNotes("whole"); n != 0 {
		t.Errorf("a damaged note was handed on %d times", n)
	}
	st.again()
	for _, one := range []map[string]any{whole, skipped, whole, note("next")} {
		st.deliver(bob, one)
	}
	await(t, "the next note does not come", func() bool { return st.heardNotes("next") == 1 })
	for _, text := range []string{"whole", "skipped", "first"} {
		if n := st.heardNotes(text); n != 1 {
			t.Errorf("%q was handed on %d times", text, n)
		}
	}
	reads(t, bob, st.send(room, "and back"))
}

// Attack A26. What a message says is said once, and under the names that the
// specification gives: another reader might take the other name, or the other value.
func TestNamesInAnotherCase(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	for name, send := range map[string]func(key *megolm){
		"Room_ID": func(key *megolm) {
			content := roomKey(room, key.ID().String(), key.export())
			delete(content, "room_id")
			content["Room_ID"] = room
			bob.sendOlm(st.target(), bob.envelope(st.target(), "m.room_key", content))
		},
		"Session_Key": func(key *megolm) {
			content := roomKey(room, key.ID().String(), key.export())
			content["SESSION_KEY"] = content["session_key"]
			delete(content, "session_key")
			bob.sendOlm(st.target(), bob.envelope(st.target(), "m.room_key", content))
		},
		"Sender inside": func(key *megolm) {
			plain := bob.envelope(st.target(), "m.room_key", roomKey(room, key.ID().String(), key.export()))
			plain["Sender"] = plain["sender"]
			delete(plain, "sender")
			bob.sendOlm(st.target(), plain)
		},
		"Sender_Key outside": func(key *megolm) {
			content := bob.sealOlm(st.target(), bob.envelope(st.target(), "m.room_key", roomKey(room, key.ID().String(), key.export())))
			content["Sender_Key"] = content["sender_key"]
			delete(content, "sender_key")
			st.deliver(bob, content)
		},
	} {
		key := bob.newMegolm(room)
		send(key)
		if code := st.wantHidden(key.say(name), name); code != "MissingRoomKey" {
			t.Errorf("%s: %s", name, code)
		}
	}
	// Of two names that differ in case the one that is the specification's counts.
	both := bob.newMegolm(room)
	content := roomKey(room, both.ID().String(), both.export())
	maps.Copy(content, map[string]any{"Room_ID": "!another:liar.test", "Session_ID": said.ID()})
	bob.sendOlm(st.target(), bob.envelope(st.target(), "m.room_key", content))
	st.awaitText(both.say("both names"), "both names")
}

// Attack 65. A session jumps to its last messages: what lies between is neither derived
// one by one nor kept, and the earlier messages are still read.
func TestDistantMessages(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	early := said.seal(said.text("early"))
	said.Ratchet.AdvanceTo(1<<31 - 5)
	far := said.say("far")
	st.awaitText(far, "far")
	st.awaitText(st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: early}), "early")
	said.share(st.target()) // a later part of what is known
	st.awaitText(said.say("farther"), "farther")
	if n, first := st.kept(said.ID().String()); n != 1 || first != 0 {
		t.Errorf("%d keys, the first from index %d", n, first)
	}
}
