package e2ee_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"maps"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/goolm/session"

	"e2ee-proxy/internal/liar"
)

// ownIdentity returns the identity that the engine made for alice, in the hands of the
// test.
func (st *stage) ownIdentity() *identity {
	st.t.Helper()
	secrets, err := st.dev.Secrets(st.t.Context())
	if err != nil {
		st.t.Fatal(err)
	}
	key := func(name string) ed25519.PrivateKey {
		seed, err := base64.RawStdEncoding.DecodeString(secrets[name])
		if err != nil || len(seed) != ed25519.SeedSize {
			st.t.Fatalf("%s is not here: %v", name, err)
		}
		return ed25519.NewKeyFromSeed(seed)
	}
	return &identity{
		t: st.t, hs: st.hs, owner: st.alice,
		master: key("m.cross_signing.master"), self: key("m.cross_signing.self_signing"),
	}
}

// ownPuppet is another device of alice's, which her identity has confirmed.
func (st *stage) ownPuppet(device string) *puppet {
	st.t.Helper()
	p := newPuppet(st.t, st.hs, "alice", device)
	st.ownIdentity().confirm(p)
	st.told()
	st.dev.Maintain(st.t.Context())
	return p
}

// forward returns the content of an m.forwarded_room_key with a session as it is now.
func (m *megolm) forward() map[string]any {
	m.p.t.Helper()
	in, err := session.NewMegolmInboundSession(m.export())
	if err != nil {
		m.p.t.Fatal(err)
	}
	key, err := in.Export(in.FirstKnownIndex())
	if err != nil {
		m.p.t.Fatal(err)
	}
	content := roomKey(m.room, m.ID().String(), key)
	maps.Copy(content, map[string]any{
		"sender_key": m.p.curve25519, "sender_claimed_ed25519_key": m.p.ed25519, "forwarding_curve25519_key_chain": []string{},
	})
	return content
}

// asked counts what the device was asked for of a session.
func (p *puppet) asked(sessionID string) (n int) {
	p.t.Helper()
	p.listen()
	for _, ev := range p.plain {
		body, _ := ev.Content["body"].(map[string]any)
		if ev.Type == "m.room_key_request" && ev.Content["action"] == "request" && body["session_id"] == sessionID {
			n++
		}
	}
	return n
}

// Attack A12. Alice's device asks her other confirmed device for a key. The answer comes
// from everybody but that device, for another session, too late, or in another's name. It
// is not taken; the right one is, afterwards, and proves nothing of who sent the event.
func TestForwardsThatAreNotAnswers(t *testing.T) {
	t.Parallel()
	for name, attack := range map[string]func(t *testing.T, st *stage, said *megolm, other *puppet){
		"of the sender": func(_ *testing.T, st *stage, said *megolm, _ *puppet) {
			said.p.sendOlm(st.target(), said.p.envelope(st.target(), "m.forwarded_room_key", said.forward()))
		},
		"of an own device that is not confirmed": func(t *testing.T, st *stage, said *megolm, _ *puppet) {
			spy := newPuppet(t, st.hs, "alice", "SPY")
			st.told()
			spy.sendOlm(st.target(), spy.envelope(st.target(), "m.forwarded_room_key", said.forward()))
		},
		"of an own device that was not asked": func(_ *testing.T, st *stage, said *megolm, _ *puppet) {
			late := st.ownPuppet("LATE")
			late.sendOlm(st.target(), late.envelope(st.target(), "m.forwarded_room_key", said.forward()))
		},
		"in the name of the confirmed device": func(t *testing.T, st *stage, said *megolm, other *puppet) {
			spy := newPuppet(t, st.hs, "alice", other.DeviceID+"X")
			plain := spy.envelope(st.target(), "m.forwarded_room_key", said.forward())
			plain["sender_device_keys"] = other.deviceKeys()
			plain["keys"] = map[string]any{"ed25519": other.ed25519}
			spy.sendOlm(st.target(), plain)
		},
		"of another session": func(_ *testing.T, st *stage, said *megolm, other *puppet) {
			content := said.p.newMegolm(said.room).forward()
			content["session_id"] = said.ID()
			other.sendOlm(st.target(), other.envelope(st.target(), "m.forwarded_room_key", content))
		},
		"for another room": func(_ *testing.T, st *stage, said *megolm, other *puppet) {
			content := said.forward()
			content["room_id"] = "!another:liar.test"
			other.sendOlm(st.target(), other.envelope(st.target(), "m.forwarded_room_key", content))
		},
		"a day later": func(_ *testing.T, st *stage, said *megolm, other *puppet) {
			st.later(25 * time.Hour)
			other.sendOlm(st.target(), other.envelope(st.target(), "m.forwarded_room_key", said.forward()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, nil)
			other := st.ownPuppet("OTHER")
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			said := bob.newMegolm(room)
			whole := said.forward()
			event := said.say("missed")
			if code := st.wantHidden(event, "missed"); code != "MissingRoomKey" {
				t.Error(code)
			}
			if err := st.dev.AskForKeys(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := other.asked(said.ID().String()); n != 1 {
				t.Fatalf("the other device was asked %d times", n)
			}
			attack(t, st, said, other)
			st.sync()
			if n, _ := st.kept(said.ID().String()); n > 0 {
				t.Fatal("the key was taken")
			}
			if err := st.dev.AskForKeys(t.Context()); err != nil {
				t.Fatal(err)
			}
			other.sendOlm(st.target(), other.envelope(st.target(), "m.forwarded_room_key", whole))
			st.awaitText(event, "missed")
			if trust := trustOf(st.shown[event]); trust["color"] != "grey" || trust["source"] != "forwarded" || trust["code"] != "AuthenticityNotGuaranteed" {
				t.Errorf("the event is shown with %v", trust)
			}
		})
	}
}

// Attacks A12 and N2. The key of a session is here from the seventh message on, from bob
// himself. A device of alice's own, which may have been taken over, is asked for the
// earlier part: one whose ratchet does not lead to what is here is refused, also when the
// session is alice's own. One that does is taken, and the owner stays who it was.
func TestForwardOfAnEarlierPart(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	other := st.ownPuppet("OTHER")
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	said, forged := bob.newMegolm(room), bob.newMegolm(room)
	forged.SigningKey = said.SigningKey // the same session by name
	whole := said.forward()
	early := said.say("early")
	for range 6 {
		said.seal(said.text("unread"))
	}
	said.share(st.target())
	st.awaitText(said.say("at seven"), "at seven")
	if code := st.wantHidden(early, "early"); code != "UnknownMessageIndex" {
		t.Error(code)
	}
	if err := st.dev.AskForKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := other.asked(said.ID().String()); n != 1 {
		t.Fatalf("the other device was asked %d times", n)
	}
	send := func(content map[string]any) {
		other.sendOlm(st.target(), other.envelope(st.target(), "m.forwarded_room_key", content))
		st.sync()
	}
	send(forged.forward())
	own := st.send(room, "alice's own")
	mine := bob.roomKeys()[own.session]
	exported, err := mine.Export(mine.FirstKnownIndex())
	if err != nil {
		t.Fatal(err)
	}
	send(map[string]any{
		"algorithm": megolmAlgorithm, "room_id": room, "session_id": own.session, "session_key": string(exported),
		"sender_key": bob.curve25519, "sender_claimed_ed25519_key": bob.ed25519, "forwarding_curve25519_key_chain": []string{},
	})
	if n, first := st.kept(said.ID().String()); n != 1 || first != 7 {
		t.Errorf("%d keys, the first from index %d", n, first)
	}
	st.awaitText(said.say("after the forgery"), "after the forgery")
	if trust := trustOf(st.shown[own.event]); trust["color"] != "none" || trust["source"] != "direct" {
		t.Errorf("alice's own message is shown with %v", trust)
	}
	whole["sender_key"], whole["sender_claimed_ed25519_key"] = other.curve25519, other.ed25519
	send(whole)
	st.awaitText(early, "early")
	if trust := trustOf(st.shown[early]); trust["color"] != "none" || trust["source"] != "direct" || trust["user_id"] != bob.UserID {
		t.Errorf("the early message is shown with %v", trust)
	}
}

// A forward, then the key itself over Olm from another member: what the forward claimed
// is nothing to go by, and the direct key's owner is who sent it.
func TestForwardLendsNoOwner(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	other := st.ownPuppet("OTHER")
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, mallory.UserID)
	said := mallory.newMegolm(room)
	content := said.forward()
	content["sender_key"], content["sender_claimed_ed25519_key"] = bob.curve25519, bob.ed25519
	event := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: said.seal(said.text("bob's, they say"))})
	st.wantHidden(event, "bob's, they say")
	if err := st.dev.AskForKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	other.sendOlm(st.target(), other.envelope(st.target(), "m.forwarded_room_key", content))
	st.awaitText(event, "bob's, they say")
	if trust := trustOf(st.shown[event]); trust["color"] != "grey" {
		t.Errorf("the event is shown with %v", trust)
	}
	said.share(st.target())
	again := st.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: bob.UserID, Content: said.seal(said.text("bob's, they say again"))})
	if code := st.wantHidden(again, "bob's, they say again"); code != "MismatchedSender" {
		t.Error(code)
	}
	st.awaitText(said.say("mallory's own"), "mallory's own")
}

// Requests for room keys come in clear: an unconfirmed device of alice's asks, somebody
// else does, somebody else in her name, the homeserver in the name of the confirmed one.
// A key goes over Olm to the confirmed device, once, however often it is asked for.
func TestRoomKeysGoToConfirmedDevicesOnly(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	room, bob, said := hear(t, st)
	other := st.ownPuppet("OTHER")
	spy := newPuppet(t, st.hs, "alice", "SPY")
	st.told()
	ask := func(sender, device, request string) {
		st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, sender, "m.room_key_request", map[string]any{
			"action": "request", "request_id": request, "requesting_device_id": device,
			"body": map[string]any{"algorithm": megolmAlgorithm, "room_id": room, "session_id": said.ID(), "sender_key": bob.curve25519},
		})
		st.told()
		st.dev.Maintain(t.Context())
	}
	ask(st.alice.UserID, "SPY", "1")
	ask(bob.UserID, "BOB", "2")
	ask(st.alice.UserID, "BOB", "3")
	ask(bob.UserID, "OTHER", "4")
	ask(st.alice.UserID, st.alice.DeviceID, "5")
	ask(st.alice.UserID, "NOBODY", "6")
	forwarded := func(p *puppet) (n int) {
		p.listen()
		for _, ev := range p.opened {
			if ev.Type == "m.forwarded_room_key" {
				n++
			}
		}
		return n
	}
	for _, p := range []*puppet{other, spy, bob} {
		if n := forwarded(p); n > 0 {
			t.Errorf("%s was given %d keys", p.DeviceID, n)
		}
	}
	for _, request := range []string{"7", "8", "9"} {
		ask(st.alice.UserID, "OTHER", request)
	}
	if n := forwarded(other); n != 1 {
		t.Errorf("the confirmed device was given %d keys, want 1", n)
	}
	st.hs.EditDeviceKeys(st.alice.UserID, "OTHER", func(keys map[string]any) { keys["signatures"] = other.deviceKeys()["signatures"] })
	st.told()
	st.later(2 * time.Hour)
	ask(st.alice.UserID, "OTHER", "10")
	if n := forwarded(other); n != 1 {
		t.Error("a device that is not confirmed any more was given a key")
	}
}

// Once one of the devices that were asked has given the key, the others are told that it is no
// longer wanted, and the one that gave it is not (requirement 11.3).
func TestOthersAreToldThatTheKeyHasCome(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	gives, waits := st.ownPuppet("GIVES"), st.ownPuppet("WAITS")
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	said := bob.newMegolm(room)
	whole := said.forward()
	event := said.say("missed")
	if code := st.wantHidden(event, "missed"); code != "MissingRoomKey" {
		t.Error(code)
	}
	if err := st.dev.AskForKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*puppet{gives, waits} {
		if n := p.asked(said.ID().String()); n != 1 {
			t.Fatalf("%s was asked %d times", p.DeviceID, n)
		}
	}
	gives.sendOlm(st.target(), gives.envelope(st.target(), "m.forwarded_room_key", whole))
	st.awaitText(event, "missed")
	takenBack := func(p *puppet) bool {
		p.listen()
		asked := ""
		for _, ev := range p.plain {
			request, _ := ev.Content["request_id"].(string)
			switch {
			case ev.Type != "m.room_key_request":
			case ev.Content["action"] == "request":
				asked = request
			case ev.Content["action"] == "request_cancellation":
				return request == asked && request != ""
			}
		}
		return false
	}
	await(t, "the other device is not told", func() bool { return takenBack(waits) })
	if takenBack(gives) {
		t.Error("the device that gave the key is told that it is not wanted")
	}
}
