package e2ee_test

import (
	"testing"
	"time"

	"e2ee-proxy/internal/liar"
)

// twinOf returns a confirmed device of another user that claims bob's Curve25519 key as its own, which
// is public. It has one-time keys of its own; bob's private keys it has not.
func (st *stage) twinOf(bob *puppet, name string) *puppet {
	st.t.Helper()
	twin := silentPuppet(st.t, st.hs, st.hs.Login(name, "TWIN"))
	twin.curve25519 = bob.curve25519
	twin.upload(map[string]any{"device_keys": twin.deviceKeys(), "one_time_keys": twin.oneTimeKeys(20)})
	own := newIdentity(st.t, st.hs, twin.Session)
	own.confirm(twin)
	return twin
}

// Attack A16, by another user. Mallory's device claims the Curve25519 key of bob's, and gets alice to
// begin an Olm session with it before she begins one with bob. It is made with mallory's one-time key,
// so that neither can read what is sent in it. [bob reads what alice writes him]
func TestSessionBegunWithAStolenName(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	mallory := st.twinOf(bob, "mallory")
	st.send(st.hs.CreateRoom(true, st.alice.UserID, mallory.UserID), "hello mallory")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	reads(t, bob, st.send(room, "hello bob"))
	both := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, mallory.UserID)
	for _, text := range []string{"one", "two"} {
		reads(t, bob, st.send(both, text))
	}
}

// The same, while alice and bob talk: mallory says again and again that there is no session, so that
// alice begins others. Bob goes on reading, also after a restart and after he has answered; and his
// sessions are not dropped for mallory's.
func TestSessionsBegunAgainWithAStolenName(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.known(bob)
	mallory := st.twinOf(bob, "mallory")
	st.send(st.hs.CreateRoom(true, st.alice.UserID, mallory.UserID), "hello mallory")
	made := func() int {
		return len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("PUT", "sendToDevice/m.room.encrypted/"))))
	}
	again := func(times int) {
		t.Helper()
		for range times {
			before := made()
			st.later(61 * time.Minute)
			st.hs.SendToDevice(st.alice.UserID, st.alice.DeviceID, mallory.UserID, "m.room_key.withheld", map[string]any{
				"algorithm": megolmAlgorithm, "code": "m.no_olm", "sender_key": mallory.curve25519, "from_device": mallory.DeviceID,
			})
			await(t, "mallory gets no new session", func() bool { st.told(); return made() > before })
		}
	}
	rotate := func(text string) {
		t.Helper()
		st.later(8 * 24 * time.Hour)
		reads(t, bob, st.send(room, text))
	}
	again(1)
	rotate("after one")
	bob.listen()
	st.deliver(bob, bob.sealOlm(st.target(), bob.envelope(st.target(), noteType, map[string]any{"body": "an answer"})))
	await(t, "the answer does not come", func() bool { return st.heardNotes("an answer") == 1 })
	again(8)
	rotate("after many")
	st.again()
	rotate("after a restart")
	if n := len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is("POST", "keys/claim$")))); n > 11 {
		t.Errorf("%d claims: bob's sessions were lost", n)
	}
}
