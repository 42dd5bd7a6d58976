package e2ee_test

import (
	"fmt"
	"testing"
	"time"

	"e2ee-proxy/internal/liar"
)

// dummies counts the m.dummy messages that came to the device over Olm.
func (p *puppet) dummies() int {
	p.t.Helper()
	p.listen()
	n := 0
	for _, ev := range p.opened {
		if ev.Type == "m.dummy" {
			n++
		}
	}
	return n
}

// A device says that it has no Olm session with us: it gets a new one, at most one in an
// hour, however it names itself and however often it says so. One that its owner has not
// confirmed, or that does not exist, gets nothing (requirements 6.12, 10.3, 1.14).
func TestNoOlmIsAnsweredWithASession(t *testing.T) {
	t.Parallel()
	for name, named := range map[string]func(p *puppet) map[string]any{
		"by its name": func(p *puppet) map[string]any {
			return map[string]any{"from_device": p.DeviceID, "sender_key": p.curve25519}
		},
		"by its key": func(p *puppet) map[string]any { return map[string]any{"sender_key": p.curve25519} },
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			spy := newPuppet(t, st.hs, "bob", "SPY")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			st.send(room, "now bob is known")
			say := func(p *puppet) {
				content := named(p)
				content["algorithm"], content["code"] = megolmAlgorithm, "m.no_olm"
				st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, p.UserID, "m.room_key.withheld", content)
				st.told()
				st.dev.Maintain(t.Context())
			}
			for range 3 {
				say(bob)
				say(spy)
			}
			if n := bob.dummies(); n != 1 {
				t.Errorf("%d new sessions within an hour", n)
			}
			if sessions := len(bob.sessions[st.target().curve25519]); sessions != 2 {
				t.Errorf("%d Olm sessions", sessions)
			}
			st.later(61 * time.Minute)
			say(bob)
			if n := bob.dummies(); n != 2 {
				t.Errorf("%d new sessions after an hour", n)
			}
			if spy.listen(); len(spy.opened) > 0 {
				t.Error("a device that is not confirmed was sent something over Olm")
			}
		})
	}
}

// A message arrives that no session can read, because the other device lost its own: it is
// given a new session, through which both can talk again (requirement 6.12).
func TestUnreadableMessageIsAnsweredWithASession(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.send(room, "now bob is known")
	own := st.target()
	lost := map[string]any{
		"algorithm": olmAlgorithm, "sender_key": bob.curve25519,
		"ciphertext": map[string]any{own.curve25519.String(): map[string]any{"type": 1, "body": rawBase64(make([]byte, 120))}},
	}
	for i := range 3 {
		lost["serial"] = fmt.Sprint(i)
		st.hs.SendToDevice(own.user, own.device, bob.UserID, "m.room.encrypted", lost)
		st.told()
		st.dev.Maintain(t.Context())
	}
	if n := bob.dummies(); n != 1 {
		t.Fatalf("%d new sessions", n)
	}
	if n := len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("POST", "/keys/claim$")))); n != 2 {
		t.Errorf("%d claims, want one for the room key and one for the new session", n)
	}
	sessions := bob.sessions[own.curve25519]
	bob.sessions[own.curve25519] = sessions[len(sessions)-1:]
	said := bob.newMegolm(room)
	said.share(own)
	st.awaitText(said.say("heard again"), "heard again")
}

// We could not read what a device sent and made a new session with it: what we sent over the
// old one may be lost likewise, so that it is given the room's key again with the next
// message, once, and nobody else is (requirement 6.12).
func TestRoomKeyIsGivenAgainOverOurNewSession(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	first := st.send(room, "bob cannot read this")
	bob.forget()
	own := st.target()
	st.hs.SendToDevice(own.user, own.device, bob.UserID, "m.room.encrypted", map[string]any{
		"algorithm": olmAlgorithm, "sender_key": bob.curve25519,
		"ciphertext": map[string]any{own.curve25519.String(): map[string]any{"type": 1, "body": rawBase64(make([]byte, 120))}},
	})
	st.told()
	st.dev.Maintain(t.Context())
	for range 3 {
		h := st.send(room, "bob can read this")
		if h.session != first.session {
			t.Error("the others were given a new session")
		}
		reads(t, bob, h)
	}
	cannotRead(t, bob, first)
	if carol.listen(); len(bob.opened) != 2 || len(carol.opened) != 1 {
		t.Errorf("bob was sent %v, carol %v", bob.opened, carol.opened)
	}
}

// Attack: a device that has a room's key says that it lost it, and loses its confirmation
// before the next message. It has the key all the same, so that the message needs another.
func TestLossDoesNotHideADevice(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	spy := newPuppet(t, st.hs, "bob", "SPY")
	own.confirm(spy)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	first := st.send(room, "for the spy too")
	reads(t, spy, first)
	spy.sessions[st.target().curve25519] = nil
	spy.sendOlm(st.target(), spy.envelope(st.target(), "m.dummy", map[string]any{}))
	st.told()
	st.hs.EditDeviceKeys(bob.UserID, spy.DeviceID, func(keys map[string]any) { keys["signatures"] = spy.deviceKeys()["signatures"] })
	st.told()
	h := st.send(room, "not for the spy")
	cannotRead(t, spy, h)
	reads(t, bob, h)
	if h.session == first.session {
		t.Error("the spy has the key of this message")
	}
}
