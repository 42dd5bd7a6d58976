package e2ee_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"testing"

	"maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/liar"
)

// kept counts the room keys that the device holds for a session, and gives their owner's
// index.
func (st *stage) kept(session string) (n int, first uint32) {
	st.t.Helper()
	all, err := st.dev.InboundSessions(st.t.Context())
	if err != nil {
		st.t.Fatal(err)
	}
	for _, s := range all {
		if s.SessionID.String() == session {
			n, first = n+1, s.FirstIndex
		}
	}
	return n, first
}

// Attack A11. Things that only ever come over Olm come in clear, where anybody can write
// them, or inside a room message. None has an effect, and none reaches the client.
func TestSecretsInClear(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	forged := bob.newMegolm(room)
	key := roomKey(room, forged.ID().String(), forged.export())
	forwarded := maps.Clone(key)
	maps.Copy(forwarded, map[string]any{
		"sender_key": bob.curve25519, "sender_claimed_ed25519_key": bob.ed25519, "forwarding_curve25519_key_chain": []string{},
	})
	for eventType, content := range map[string]map[string]any{
		"m.room_key": key, "m.forwarded_room_key": forwarded,
		"m.secret.send": {"request_id": "x", "secret": "c2VjcmV0"}, "m.dummy": {},
		"m.room_key_bundle": {"room_id": room},
		"m.room_key.withheld": {
			"algorithm": megolmAlgorithm, "room_id": room, "session_id": said.ID(), "code": "m.blacklisted", "sender_key": bob.curve25519,
		},
	} {
		st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, bob.UserID, eventType, content)
		st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: said.seal(map[string]any{
			"type": eventType, "room_id": room, "content": content,
		})})
	}
	st.awaitText(said.say("not withheld"), "not withheld")
	event := forged.say("with a key that came in clear")
	if code := st.wantHidden(event, "with a key that came in clear"); code != "MissingRoomKey" {
		t.Error(code)
	}
	if n, _ := st.kept(forged.ID().String()); n > 0 {
		t.Error("a room key that came in clear was kept")
	}
	if len(st.heard) > 0 {
		t.Errorf("the client was handed %v", st.heard)
	}
}

// Attack A12. Bob forwards a room key that nobody asked for, over a proper channel.
func TestUnrequestedForward(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, _ := hear(t, st)
	other := bob.newMegolm(room)
	content := roomKey(room, other.ID().String(), other.export())
	maps.Copy(content, map[string]any{
		"sender_key": bob.curve25519, "sender_claimed_ed25519_key": bob.ed25519, "forwarding_curve25519_key_chain": []string{},
	})
	bob.sendOlm(st.target(), bob.envelope(st.target(), "m.forwarded_room_key", content))
	if code := st.wantHidden(other.say("forwarded"), "forwarded"); code != "MissingRoomKey" {
		t.Error(code)
	}
}

// Attacks A12 and N2. Mallory, who has got room keys as a member of the room, sends them
// on as if she had made them: bob's, and alice's own. It takes nothing from bob, it lets
// nobody but her speak with it, and of alice's own, of which alice knows that she made it,
// mallory becomes no owner.
func TestRoomKeyOfAnotherOwner(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, _, said := hear(t, st)
	mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
	st.hs.Inject(room, memberEvent(mallory.UserID, "join"))
	st.told()
	own := st.send(room, "alice's own")
	exported, err := mallory.roomKeys()[own.session].Export(mallory.roomKeys()[own.session].FirstKnownIndex())
	if err != nil || len(exported) == 0 {
		t.Fatal(err)
	}
	for _, m := range mallory.opened { // as it came to her, word for word
		if m.Type == "m.room_key" {
			mallory.sendOlm(st.target(), mallory.envelope(st.target(), "m.room_key", m.Content))
		}
	}
	mallory.sendOlm(st.target(), mallory.envelope(st.target(), "m.room_key", roomKey(room, said.ID().String(), said.export())))
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	event := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: carol.UserID, Content: said.seal(said.text("carol's words"))})
	if code := st.wantHidden(event, "carol's words"); code != "MismatchedSender" {
		t.Error(code)
	}
	st.awaitText(said.say("bob's words"), "bob's words")
	enc, err := st.encrypt(st.outgoing(room, "still alice's"))
	if err != nil {
		t.Fatal(err)
	}
	stolen := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: mallory.UserID, Content: enc.Content})
	if code := st.wantHidden(stolen, clearText("still alice's")); code != "MismatchedSender" {
		t.Error(code)
	}
	if n, _ := st.kept(said.ID().String()); n != 1 {
		t.Errorf("%d keys of one session", n)
	}
}

// Attack N2. Bob's own device, which may have been taken over meanwhile, sends a key for
// the session at a lower index whose ratchet does not lead to the one that is there.
func TestUnconnectedRatchet(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	said, other := bob.newMegolm(room), bob.newMegolm(room)
	other.SigningKey = said.SigningKey // the same session by name
	for range 7 {
		said.seal(said.text("unread"))
	}
	said.share(st.target())
	st.awaitText(said.say("at seven"), "at seven")
	other.share(st.target())
	st.awaitText(said.say("at eight"), "at eight")
	if n, first := st.kept(said.ID().String()); n != 1 || first != 7 {
		t.Errorf("%d keys, the first from index %d", n, first)
	}
	if code := st.wantHidden(other.say("another ratchet"), "another ratchet"); code == "" {
		t.Error("an event of another ratchet was shown without a reason")
	}
}

// Attacks A15 and A16. The Olm message is sound, but what it says of its sender, or of
// the key it brings, is not: the session of a key is its own name, and device keys are
// those of the device that sent it.
func TestRoomKeyWithFalsePapers(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(st *stage, bob, mallory *puppet, said *megolm) map[string]any{
		"device keys of bob": func(st *stage, bob, mallory *puppet, said *megolm) map[string]any {
			plain := mallory.envelope(st.target(), "m.room_key", roomKey(said.room, said.ID().String(), said.export()))
			plain["sender_device_keys"] = bob.deviceKeys()
			return plain
		},
		"sender is bob": func(st *stage, bob, mallory *puppet, said *megolm) map[string]any {
			plain := mallory.envelope(st.target(), "m.room_key", roomKey(said.room, said.ID().String(), said.export()))
			plain["sender"] = bob.UserID
			return plain
		},
		"for somebody else": func(st *stage, bob, mallory *puppet, said *megolm) map[string]any {
			plain := mallory.envelope(st.target(), "m.room_key", roomKey(said.room, said.ID().String(), said.export()))
			plain["recipient"] = bob.UserID
			return plain
		},
		"for another key of ours": func(st *stage, bob, mallory *puppet, said *megolm) map[string]any {
			plain := mallory.envelope(st.target(), "m.room_key", roomKey(said.room, said.ID().String(), said.export()))
			plain["recipient_keys"] = map[string]any{"ed25519": bob.ed25519}
			return plain
		},
		"device keys without a signature": func(st *stage, _, mallory *puppet, said *megolm) map[string]any {
			plain := mallory.envelope(st.target(), "m.room_key", roomKey(said.room, said.ID().String(), said.export()))
			keys := mallory.deviceKeys()
			delete(keys, "signatures")
			plain["sender_device_keys"] = keys
			return plain
		},
		"another session's name": func(st *stage, _, mallory *puppet, said *megolm) map[string]any {
			other := mallory.newMegolm(said.room)
			return mallory.envelope(st.target(), "m.room_key", roomKey(said.room, said.ID().String(), other.export()))
		},
		"another algorithm": func(st *stage, _, mallory *puppet, said *megolm) map[string]any {
			content := roomKey(said.room, said.ID().String(), said.export())
			content["algorithm"] = "m.megolm.v2"
			return mallory.envelope(st.target(), "m.room_key", content)
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, mallory.UserID)
			said := mallory.newMegolm(room)
			mallory.sendOlm(st.target(), change(st, bob, mallory, said))
			for _, sender := range []string{bob.UserID, mallory.UserID} {
				event := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: sender, Content: said.seal(said.text("believe me"))})
				if code := st.wantHidden(event, "believe me"); code != "MissingRoomKey" {
					t.Errorf("from %s: %s", sender, code)
				}
			}
			if n, _ := st.kept(said.ID().String()); n > 0 {
				t.Error("the key was kept")
			}
		})
	}
}

// Attack A18. A pre-key message arrives damaged before it arrives whole. The one-time key
// it was made with is still there when the whole one comes; the damaged and a repeated
// message change nothing, also after a restart.
func TestDamagedPreKeyMessage(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	said := bob.newMegolm(room)
	whole := bob.sealOlm(st.target(), bob.envelope(st.target(), "m.room_key", roomKey(room, said.ID().String(), said.export())))
	damaged := func(at int) map[string]any {
		raw, err := json.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		var out map[string]any
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatal(err)
		}
		msg := out["ciphertext"].(map[string]any)[st.target().curve25519.String()].(map[string]any)
		body := msg["body"].(string)
		if at < 0 {
			at += len(body)
		}
		msg["body"] = flip(body, at)
		return out
	}
	deliver := func(content map[string]any) {
		st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, bob.UserID, "m.room.encrypted", content)
	}
	event := said.say("whole")
	for _, at := range []int{-1, -10, 60, 100, 150, 200, 5, 1} {
		deliver(damaged(at))
	}
	if code := st.wantHidden(event, "whole"); code != "MissingRoomKey" {
		t.Error(code)
	}
	deliver(whole)
	st.awaitText(event, "whole")
	st.again()
	deliver(whole)
	deliver(damaged(-1))
	st.awaitText(said.say("still"), "still")
	// The session of the whole message goes on.
	next := bob.newMegolm(room)
	next.share(st.target())
	st.awaitText(next.say("next"), "next")
}

// Attack A17, on the receiving side. The homeserver gives two devices the same one-time
// key. Whose message comes first has a channel; the other's cannot be read, and breaks
// nothing. A fallback key may be used by many.
func TestOneTimeKeyUsedTwice(t *testing.T) {
	t.Parallel()
	for _, fallback := range []bool{false, true} {
		t.Run(fmt.Sprintf("fallback=%v", fallback), func(t *testing.T) {
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
			if fallback {
				defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/upload$")), liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"))()
				for st.hs.OneTimeKeyCount(st.alice.UserID, st.alice.DeviceID) > 0 {
					bob.claim(st.target())
				}
			}
			key := bob.claim(st.target())
			events := make(map[string]string)
			for _, p := range []*puppet{bob, carol} {
				s, err := p.acc.NewOutboundSession(st.target().curve25519, key)
				if err != nil {
					t.Fatal(err)
				}
				p.sessions[st.target().curve25519] = []olm.Session{s}
				said := p.newMegolm(room)
				said.share(st.target())
				events[p.DeviceID] = said.say("from " + p.DeviceID)
			}
			st.awaitText(events["BOB"], "from BOB")
			if fallback {
				st.awaitText(events["CAROL"], "from CAROL")
			} else if code := st.wantHidden(events["CAROL"], "from CAROL"); code != "MissingRoomKey" {
				t.Error(code)
			}
			carol.sessions = make(map[id.Curve25519][]olm.Session)
			again := carol.newMegolm(room)
			again.share(st.target())
			st.awaitText(again.say("with a key of its own"), "with a key of its own")
		})
	}
}

// Trap T10: "a withheld notice, which anybody can send, blocks a key that arrives later".
func TestForgedWithheldNotice(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	said := bob.newMegolm(room)
	st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, "@anybody:liar.test", "m.room_key.withheld", map[string]any{
		"algorithm": megolmAlgorithm, "room_id": room, "session_id": said.ID(), "code": "m.blacklisted", "sender_key": bob.curve25519,
	})
	key := roomKey(room, said.ID().String(), said.export())
	event := said.say("not withheld")
	if code := st.wantHidden(event, "not withheld"); code != "Withheld" {
		t.Error(code)
	}
	bob.sendOlm(st.target(), bob.envelope(st.target(), "m.room_key", key))
	st.awaitText(event, "not withheld")
}

// Attack N5. Thousands of to-device messages from devices that do not exist: unreadable
// ones, requests for keys, notices. The engine asks the homeserver about a handful of
// them at most, starts nothing for each, and goes on.
func TestFloodOfToDeviceMessages(t *testing.T) {
	st := newStage(t, nil)
	room, _, said := hear(t, st)
	own := st.target()
	st.told()
	asking := liar.Of(st.alice.UserID, liar.Is("POST", "/keys/(query|claim)$"))
	routines, asked := runtime.NumGoroutine(), len(st.hs.Requests(asking))
	const messages = 3000
	for i := range messages {
		sender := fmt.Sprintf("@fake%d:liar.test", i)
		fake := rawBase64(fmt.Appendf(nil, "%032d", i))
		content, eventType := map[string]any{
			"algorithm": olmAlgorithm, "sender_key": fake,
			"ciphertext": map[string]any{own.curve25519.String(): map[string]any{"type": i % 2, "body": rawBase64(make([]byte, 200))}},
		}, "m.room.encrypted"
		switch i % 3 {
		case 1:
			eventType, content = "m.room_key_request", map[string]any{
				"action": "request", "request_id": fake, "requesting_device_id": "FAKE",
				"body": map[string]any{"algorithm": megolmAlgorithm, "room_id": room, "session_id": said.ID(), "sender_key": fake},
			}
		case 2:
			eventType, content = "m.room_key.withheld", map[string]any{"algorithm": olmAlgorithm, "code": "m.no_olm", "from_device": "FAKE", "sender_key": fake}
		}
		st.hs.SendToDevice(own.user, own.device, sender, eventType, content)
	}
	event := said.say("after the flood")
	most := 0
	for range messages/100 + 1 { // the homeserver gives out so many at a time
		st.told()
		most = max(most, runtime.NumGoroutine())
	}
	st.dev.Maintain(t.Context())
	st.awaitText(event, "after the flood")
	if n := len(st.hs.Requests(asking)) - asked; n > 40 {
		t.Errorf("%d queries and claims", n)
	}
	if n := len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("PUT", "/sendToDevice/")))); n > 0 {
		t.Errorf("%d answers", n)
	}
	if most > routines+50 {
		t.Errorf("%d goroutines, %d before", most, routines)
	}
}
