package e2ee_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

func stateEvent(sender, eventType string, content any) liar.Event {
	raw, _ := json.Marshal(content)
	key := ""
	return liar.Event{Type: eventType, Sender: sender, StateKey: &key, Content: raw}
}

// Attack A20. The homeserver makes a room look plain that is encrypted: its state is
// reset, the answer to the question for it is 404, also right after a restart and before
// any sync. What was encrypted once is for ever.
func TestEncryptionForgotten(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	reads(t, bob, st.send(room, "while it is there"))
	st.hs.Forget(room, "m.room.encryption", "")
	reads(t, bob, st.send(room, "when it is gone"))
	st.again()
	reads(t, bob, st.send(room, "after a restart"))
}

// Attack A20. It cannot be told whether a room is encrypted. Nothing is sent: unknown is
// not plain.
func TestEncryptionUnknown(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	for name, answer := range map[string]liar.Hook{
		"error":            liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"),
		"no answer":        liar.Cut,
		"forbidden":        liar.Fail(http.StatusForbidden, "M_FORBIDDEN"),
		"too many":         liar.Fail(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"),
		"no such endpoint": liar.Fail(http.StatusNotFound, "M_UNRECOGNIZED"),
		"a page":           func(*liar.Request, func() liar.Reply) liar.Reply { return liar.OK([]byte("<html>")) },
		"a page, 404": func(*liar.Request, func() liar.Reply) liar.Reply {
			return liar.Reply{Status: 404, Body: []byte("<html>")}
		},
		"an empty 200":       func(*liar.Request, func() liar.Reply) liar.Reply { return liar.OK([]byte("")) },
		"an array":           func(*liar.Request, func() liar.Reply) liar.Reply { return liar.OK([]any{}) },
		"null":               func(*liar.Request, func() liar.Reply) liar.Reply { return liar.OK(nil) },
		"no algorithm":       func(*liar.Request, func() liar.Reply) liar.Reply { return liar.OK(map[string]any{}) },
		"algorithm null":     algorithmIs(nil),
		"algorithm unknown":  algorithmIs("m.megolm.v9"),
		"algorithm a number": algorithmIs(1),
	} {
		t.Run(name, func(t *testing.T) {
			room := st.hs.CreateRoom(false, st.alice.UserID)
			defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "/state/m.room.encryption")), answer)()
			how, err := st.dev.RoomEncryption(t.Context(), id.RoomID(room))
			if how == e2ee.RoomPlain || how == e2ee.RoomEncrypted {
				t.Errorf("the room is taken for %d, %v", how, err)
			}
			if (how == e2ee.RoomUnknown) != (err != nil) {
				t.Errorf("encryption %d with error %v", how, err)
			}
		})
	}
}

func algorithmIs(v any) liar.Hook {
	return func(*liar.Request, func() liar.Reply) liar.Reply { return liar.OK(map[string]any{"algorithm": v}) }
}

// Attack A22. The algorithm of an encrypted room is changed to one that we do not know,
// or taken away, by an event in a sync. The room stays what it was.
func TestAlgorithmChanged(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	reads(t, bob, st.send(room, "as agreed"))
	for _, content := range []any{map[string]any{"algorithm": "m.none"}, map[string]any{"algorithm": nil}, map[string]any{}, map[string]any{"algorithm": ""}} {
		st.hs.Inject(room, stateEvent(bob.UserID, "m.room.encryption", content))
		st.sync()
		reads(t, bob, st.send(room, "still as agreed"))
		st.again()
		reads(t, bob, st.send(room, "and after a restart"))
	}
}

// Trap T17: "in a limited sync every membership other than join counts as a departure". Carol
// left, came back and is invited again in the part of the timeline that is left out, or
// left in a gap of the client's own syncs. What she was given before is not used again.
func TestDepartureInAGap(t *testing.T) {
	t.Parallel()
	for name, during := range map[string]func(st *stage, room string, carol *puppet){
		"left": func(st *stage, room string, carol *puppet) {
			st.hs.Inject(room, memberEvent(carol.UserID, "leave"))
		},
		"left and is invited again": func(st *stage, room string, carol *puppet) {
			st.hs.Inject(room, memberEvent(carol.UserID, "leave"))
			st.hs.Inject(room, memberEvent(carol.UserID, "invite"))
		},
		"banned": func(st *stage, room string, carol *puppet) {
			st.hs.Inject(room, memberEvent(carol.UserID, "ban"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, nil)
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
			st.sync()
			before := st.send(room, "before")
			reads(t, carol, before)
			during(st, room, carol)
			for range 50 { // more than a timeline holds
				st.hs.Inject(room, liar.Event{Type: "m.reaction", Sender: bob.UserID, Content: json.RawMessage(`{}`)})
			}
			st.sync()
			after := st.send(room, "after")
			if after.session == before.session {
				t.Error("carol can read on with the key she has")
			}
			reads(t, bob, after)
			if name != "left and is invited again" { // shared history visibility lets invited users read
				cannotRead(t, carol, after)
			}
		})
	}
}

// Who joins gets the live key from the next message on, and not what was said before. Who
// leaves and comes back has missed what was said meanwhile.
func TestJoinLeaveAndJoin(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	before := st.send(room, "before carol")
	st.hs.Inject(room, memberEvent(carol.UserID, "join"))
	st.told()
	with := st.send(room, "with carol")
	if with.session != before.session {
		t.Error("a join made a new session")
	}
	reads(t, carol, with)
	cannotRead(t, carol, before)
	st.hs.Inject(room, memberEvent(carol.UserID, "leave"))
	st.told()
	without := st.send(room, "without carol")
	st.hs.Inject(room, memberEvent(carol.UserID, "join"))
	st.told()
	again := st.send(room, "carol again")
	reads(t, carol, again)
	cannotRead(t, carol, without)
	for _, h := range []header{before, with, without, again} {
		reads(t, bob, h)
	}
}

// Somebody leaves while the key is being shared with the room: the message does not go
// out under a key that they have.
func TestDepartureWhileTheKeyIsShared(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	gate := liar.NewGate()
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("PUT", "/sendToDevice/")), liar.First(1, gate.After))()
	sent := make(chan header, 1)
	go func() {
		h, err := st.trySend(room, "not for carol")
		if err != nil {
			t.Error(err)
		}
		sent <- h
	}()
	<-gate.Arrived()
	if err := st.dev.NoteMembership(t.Context(), id.RoomID(room), id.UserID(carol.UserID), "leave"); err != nil {
		t.Fatal(err)
	}
	gate.Open()
	h := <-sent
	reads(t, bob, h)
	cannotRead(t, carol, h)
}

// Attack A23. Invited users may not read; then the homeserver makes history visible and
// invites mallory. She gets nothing of what was said while it was not.
func TestHistoryVisibilityFlips(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	mallory, _ := confirmedPuppet(t, st.hs, "mallory", "MALLORY")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.hs.Inject(room, stateEvent(st.alice.UserID, "m.room.history_visibility", map[string]string{"history_visibility": "joined"}))
	st.hs.Inject(room, memberEvent(mallory.UserID, "invite"))
	st.told()
	private := st.send(room, "among ourselves")
	cannotRead(t, mallory, private)
	if len(mallory.opened) > 0 {
		t.Error("an invited user was given a key that only members may have")
	}
	st.hs.Inject(room, stateEvent(st.alice.UserID, "m.room.history_visibility", map[string]string{"history_visibility": "shared"}))
	st.told()
	public := st.send(room, "for everybody")
	reads(t, mallory, public)
	cannotRead(t, mallory, private)
	if public.session == private.session {
		t.Error("a session was used on both sides of the boundary")
	}
	reads(t, bob, private)
	reads(t, bob, public)
}

// A member whose user ID is none, or too long to be one, stops no send (attack A2).
func TestMembersThatAreNoUsers(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	for _, name := range []string{"nobody", "@", "", "@:", "\x00", "@x:" + string(make([]byte, 300)), "@" + rawBase64(make([]byte, 1000)) + ":x"} {
		st.hs.Inject(room, memberEvent(name, "join"))
	}
	st.sync()
	reads(t, bob, st.send(room, "all the same"))
}
