package e2ee_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// resend sends a room key on, word for word, as if the puppet had made it.
func (p *puppet) resend(to target, said *megolm) {
	p.t.Helper()
	p.sendOlm(to, p.envelope(to, "m.room_key", roomKey(said.room, said.ID().String(), said.export())))
}

// wantFrom fails unless an event is shown as a confirmed device's, with no shield.
func (st *stage) wantFrom(event, text string, p *puppet) {
	st.t.Helper()
	st.awaitText(event, text)
	trust := trustOf(st.shown[event])
	if trust["color"] != "none" || trust["user_id"] != p.UserID || trust["device_id"] != p.DeviceID {
		st.t.Errorf("%q is shown as %v, want %s %s without a shield", text, trust, p.UserID, p.DeviceID)
	}
}

// quote puts somebody's ciphertext into the room as the puppet's own.
func (p *puppet) quote(room string, content json.RawMessage) (event string) {
	return p.hs.Inject(room, liar.Event{Type: "m.room.encrypted", Sender: p.UserID, Content: content})
}

// Attack: a member who resends somebody else's room key first silences its owner. Mallory
// sends bob's key on before bob's own message with it arrives, which may be before or
// after his event, begin at another index, or come after a restart. What bob says is shown
// as his.
func TestRoomKeyResentFirst(t *testing.T) {
	t.Parallel()
	for name, attack := range map[string]func(st *stage, said *megolm, mallory *puppet) (event, text string){
		"the same key": func(st *stage, said *megolm, mallory *puppet) (string, string) {
			mallory.resend(st.target(), said)
			said.share(st.target())
			return said.say("bob's words"), "bob's words"
		},
		"in another sync": func(st *stage, said *megolm, mallory *puppet) (string, string) {
			mallory.resend(st.target(), said)
			st.sync()
			said.share(st.target())
			st.sync()
			return said.say("bob's words"), "bob's words"
		},
		"and bob's comes after his event": func(st *stage, said *megolm, mallory *puppet) (string, string) {
			share := st.sealed(said)
			mallory.resend(st.target(), said)
			event := said.say("bob's words")
			if code := st.wantHidden(event, "bob's words"); code != "MismatchedSender" {
				st.t.Error(code)
			}
			share()
			return event, "bob's words"
		},
		"and bob's comes after a restart": func(st *stage, said *megolm, mallory *puppet) (string, string) {
			share := st.sealed(said)
			mallory.resend(st.target(), said)
			event := said.say("bob's words")
			st.wantHidden(event, "bob's words")
			st.again()
			share()
			return event, "bob's words"
		},
		"a later one": func(st *stage, said *megolm, mallory *puppet) (string, string) {
			share := st.sealed(said)
			event := said.say("at index zero")
			mallory.resend(st.target(), said)
			st.sync()
			share()
			return event, "at index zero"
		},
		"an earlier one": func(st *stage, said *megolm, mallory *puppet) (string, string) {
			mallory.resend(st.target(), said)
			said.say("before alice was given it")
			st.sync()
			said.share(st.target())
			return said.say("bob's words"), "bob's words"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, mallory.UserID)
			said := bob.newMegolm(room)
			event, text := attack(st, said, mallory)
			st.wantFrom(event, text, bob)
			st.again()
			st.wantFrom(said.say("after a restart"), "after a restart", bob)
			if n, _ := st.kept(said.ID().String()); n != 1 {
				t.Errorf("%d keys of one session", n)
			}
		})
	}
}

// sealed returns what delivers a room key as it is now.
func (st *stage) sealed(said *megolm) (deliver func()) {
	st.t.Helper()
	to := st.target()
	content := said.p.sealOlm(to, said.p.envelope(to, "m.room_key", roomKey(said.room, said.ID().String(), said.export())))
	return func() { st.hs.SendToDevice(to.user, to.device, said.p.UserID, "m.room.encrypted", content) }
}

// Attack: the same with as many others as can be found, who all send bob's key first, and
// again afterwards. The place of none is another's.
func TestRoomKeyResentByMany(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	said := bob.newMegolm(room)
	var others []*puppet
	for i := range 12 {
		p, _ := confirmedPuppet(t, st.hs, fmt.Sprintf("mallory%d", i), "MALLORY")
		p.resend(st.target(), said)
		others = append(others, p)
	}
	st.sync()
	said.share(st.target())
	st.wantFrom(said.say("first"), "first", bob)
	for _, p := range others {
		p.resend(st.target(), said)
	}
	st.sync()
	st.wantFrom(said.say("second"), "second", bob)
	st.again()
	st.wantFrom(said.say("third"), "third", bob)
}

// Attack: the same with devices that the homeserver adds to bob's own account. One that bob
// has confirmed counts before, and is never given up for, any that he has not.
func TestRoomKeyResentByOwnDevices(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	said := bob.newMegolm(room)
	var spies []*puppet
	for i := range 8 {
		spies = append(spies, newPuppet(t, st.hs, "bob", fmt.Sprintf("SPY%d", i)))
	}
	st.told()
	if _, err := st.dev.User(t.Context(), id.UserID(bob.UserID)); err != nil {
		t.Fatal(err)
	}
	for _, spy := range spies[:6] {
		spy.resend(st.target(), said)
	}
	st.sync()
	said.share(st.target())
	st.wantFrom(said.say("first"), "first", bob)
	for _, spy := range spies {
		spy.resend(st.target(), said)
	}
	st.sync()
	st.wantFrom(said.say("second"), "second", bob)
}

// What a claim is worth: mallory, who has bob's key and says that it is hers, can put bob's
// ciphertext into the room as her own, as she could write the same words anew. It is shown as
// hers and takes nothing from bob, even where it is seen before his event. Who has no claim
// can show nothing, and takes no index either.
func TestCiphertextOfAnotherPutFirst(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, mallory.UserID, carol.UserID)
	said := bob.newMegolm(room)
	said.share(st.target())
	st.wantFrom(said.say("before"), "before", bob)

	content := said.seal(said.text("bob's words"))
	early := carol.quote(room, content)
	if code := st.wantHidden(early, "bob's words"); code != "MismatchedSender" {
		t.Error(code)
	}
	original := bob.quote(room, content)
	st.wantFrom(original, "bob's words", bob)
	again := bob.quote(room, content) // by the homeserver
	if code := st.wantHidden(again, "bob's words"); code != "Replayed" {
		t.Error(code)
	}

	mallory.resend(st.target(), said)
	st.sync()
	content = said.seal(said.text("bob's other words"))
	copied := mallory.quote(room, content)
	st.wantFrom(copied, "bob's other words", mallory)
	original = bob.quote(room, content)
	st.wantFrom(original, "bob's other words", bob)
	st.again()
	for who, event := range map[string]string{bob.UserID: bob.quote(room, content), mallory.UserID: mallory.quote(room, content)} {
		if code := st.wantHidden(event, "bob's other words"); code != "Replayed" {
			t.Errorf("%s again: %s", who, code)
		}
	}
}

// Attack N2, by somebody who sends another ratchet for bob's session, as only who has the
// session's private key could make it. It takes no place, and makes mallory no owner.
func TestResentRoomKeyWithAnotherRatchet(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, mallory.UserID)
	said, other := bob.newMegolm(room), mallory.newMegolm(room)
	other.SigningKey = said.SigningKey
	for range 3 {
		said.seal(said.text("unread"))
	}
	said.share(st.target())
	st.sync()
	other.share(st.target())
	st.sync()
	st.wantFrom(said.say("bob's words"), "bob's words", bob)
	if n, first := st.kept(said.ID().String()); n != 1 || first != 3 {
		t.Errorf("%d keys, the first from index %d", n, first)
	}
	if code := st.wantHidden(other.say("mallory's words"), "mallory's words"); code == "" {
		t.Error("an event of another ratchet was shown without a reason")
	}
	if code := st.wantHidden(mallory.quote(room, said.seal(said.text("quoted"))), "quoted"); code != "MismatchedSender" {
		t.Error(code)
	}
}

// A key of which several say that it is theirs is in the backup without a word on whose it
// is: a device that restores it must not take the first one's for everybody's. That holds too
// where it was backed up before bob sent it, though a homeserver keeps what it has.
func TestContestedKeyInTheBackup(t *testing.T) {
	t.Parallel()
	for _, first := range []bool{false, true} {
		t.Run(fmt.Sprintf("backed up before=%v", first), func(t *testing.T) {
			t.Parallel()
			contestedInTheBackup(t, first)
		})
	}
}

// Attack: as above, and bob's claim comes while mallory's is being uploaded.
//
// Expected: what is in the backup counts as outdated, and is replaced.
func TestContestedWhileItIsBackedUp(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, mallory.UserID)
	said := bob.newMegolm(room)
	gate := liar.NewGate()
	st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodPut, "room_keys/keys")), gate.After)
	mallory.resend(st.target(), said)
	st.sync()
	<-gate.Arrived() // mallory's claim is in the backup, and the device does not know that yet
	said.share(st.target())
	st.sync()
	event := said.say("bob's words")
	st.wantFrom(event, "bob's words", bob)
	gate.Open()
	st.restoresFromBackup(room, "bob's words")
}

// backedUp waits until the device has backed up all its room keys.
func (st *stage) backedUp() {
	st.t.Helper()
	await(st.t, "the key is not backed up", func() bool {
		st.dev.Maintain(st.t.Context())
		return status(st.t, st.dev).Backup.Pending == 0
	})
}

// restoresFromBackup wants a new device of the user to read an event once everything is
// backed up and it has recovered.
func (st *stage) restoresFromBackup(room, text string) {
	t := st.t
	t.Helper()
	st.backedUp()
	late := &person{t: t, hs: st.hs, rig: newRig(t, st.hs, nil), Session: st.hs.Login("alice", "LATE")}
	late.dev = late.rig.device(late.Session)
	settle(t, late.dev)
	if err := late.dev.Recover(t.Context(), e2ee.Recovery{Key: recoveryKey(t, st.dev)}); err != nil {
		t.Fatal(err)
	}
	ev := late.awaitRead(room, text)
	if trust := ev.Unsigned.Trust; trust.Source != "backup" || trust.Color != "grey" {
		t.Errorf("after a restore it is shown as %+v", trust)
	}
}

func contestedInTheBackup(t *testing.T, first bool) {
	t.Helper()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, mallory.UserID)
	said := bob.newMegolm(room)
	mallory.resend(st.target(), said)
	if first {
		st.sync()
		st.backedUp()
	}
	said.share(st.target())
	st.sync()
	event := said.say("bob's words")
	st.wantFrom(event, "bob's words", bob)
	st.restoresFromBackup(room, "bob's words")
}
