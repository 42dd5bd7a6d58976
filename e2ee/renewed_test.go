package e2ee_test

import (
	"testing"

	"maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/id"
)

// forget has the device lose its Olm sessions and what came over them, as one whose
// database was put back does.
func (p *puppet) forget() {
	p.t.Helper()
	p.listen()
	p.sessions, p.opened = make(map[id.Curve25519][]olm.Session), nil
}

// A device that lost its Olm sessions begins a new one and says so with an m.dummy. It has
// lost the room's live key with them, and is given it again with the next message, once,
// without a new session for the others (requirement 6.12).
func TestRoomKeyIsGivenAgainAfterUnwedging(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	first := st.send(room, "first")
	reads(t, bob, first)
	reads(t, carol, first)
	bob.forget()
	bob.sendOlm(st.target(), bob.envelope(st.target(), "m.dummy", map[string]any{}))
	st.told()
	second := st.send(room, "second")
	if second.session != first.session {
		t.Error("the others got a new session for it")
	}
	reads(t, bob, second)
	cannotRead(t, bob, first)
	given := len(carol.opened)
	third := st.send(room, "third")
	carol.listen()
	if len(carol.opened) != given {
		t.Error("who lost nothing was given the key again")
	}
	bob.listen()
	keys := 0
	for _, ev := range bob.opened {
		if ev.Type == "m.room_key" {
			keys++
		}
	}
	if keys != 1 {
		t.Errorf("the key was given %d times", keys)
	}
	reads(t, bob, third)
}

// Bob logs out and in again under his device's ID, with new keys, and nobody writes meanwhile.
// The new device is given the key with the next message, without a new session for the others.
// (Element's library gives such a device nothing until the session ends.)
func TestDeviceMadeAgainUnderItsID(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, own := confirmedPuppet(t, st.hs, "bob", "BOB")
	phone := newPuppet(t, st.hs, "bob", "PHONE")
	own.confirm(phone)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	first := st.send(room, "first")
	reads(t, phone, first)
	if code := call(t, st.hs, phone.Session, "POST", "logout", map[string]any{}, nil); code != 200 {
		t.Fatalf("logout answers %d", code)
	}
	st.told()
	if _, err := st.dev.User(t.Context(), id.UserID(bob.UserID)); err != nil {
		t.Fatal(err)
	}
	again := newPuppet(t, st.hs, "bob", "PHONE")
	own.confirm(again)
	st.told()
	second := st.send(room, "second")
	reads(t, again, second)
	reads(t, bob, second)
	cannotRead(t, again, first)
}

// A dehydrated device is there to receive until its owner takes it into use: it sends
// nothing. A room key in its name is dropped, whether the device is listed or only says of
// itself what it is (requirement 24.2).
func TestRoomKeyOfADehydratedDevice(t *testing.T) {
	t.Parallel()
	for name, listed := range map[string]bool{"listed": true, "not listed": false} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			room, _, _ := hear(t, st)
			ghost := silentPuppet(t, st.hs, st.hs.Login("bob", "GHOST"))
			keys := ghost.deviceKeys()
			delete(keys, "signatures")
			keys["dehydrated"] = true
			ghost.sign(keys)
			if listed {
				ghost.upload(map[string]any{"device_keys": keys})
				st.told()
				if _, err := st.dev.User(t.Context(), id.UserID(ghost.UserID)); err != nil {
					t.Fatal(err)
				}
			}
			said := ghost.newMegolm(room)
			envelope := ghost.envelope(st.target(), "m.room_key", roomKey(room, said.ID().String(), said.export()))
			if listed {
				delete(envelope, "sender_device_keys")
			} else {
				envelope["sender_device_keys"] = keys
			}
			ghost.sendOlm(st.target(), envelope)
			if code := st.wantHidden(said.say("from nowhere"), "from nowhere"); code != "MissingRoomKey" {
				t.Error(code)
			}
			if n, _ := st.kept(said.ID().String()); n != 0 {
				t.Error("the key was kept")
			}
		})
	}
}
