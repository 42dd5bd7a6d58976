package e2ee_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/rules"
)

// What a homeserver accepts and what it says of it come in another order: between a change by the
// client and its answer lies what others did, and an answer that was asked for before a change
// comes after it.

func (st *stage) noted(room, user, membership string) {
	st.t.Helper()
	if err := st.dev.NoteMembership(st.t.Context(), id.RoomID(room), id.UserID(user), membership); err != nil {
		st.t.Fatal(err)
	}
}

// stillStage is a stage without syncs that nobody asked for.
func stillStage(t *testing.T) *stage {
	t.Helper()
	return newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
}

// visible changes a room's history visibility in the name of somebody.
func (st *stage) visible(room string, by *puppet, visibility string) {
	st.t.Helper()
	st.hs.Inject(room, stateEvent(by.UserID, "m.room.history_visibility", map[string]string{"history_visibility": visibility}))
}

// Alice's client invites carol, which the homeserver accepts, and its answer is slow. Carol
// declines, which the proxy hears. Then the answer comes: she is no more invited by that.
func TestSlowAnswerToAnInvite(t *testing.T) {
	t.Parallel()
	st := stillStage(t)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.sync()
	reads(t, bob, st.send(room, "before"))
	path := "rooms/" + url.PathEscape(room)
	if code := call(t, st.hs, st.alice, http.MethodPost, path+"/invite", map[string]any{"user_id": carol.UserID}, nil); code != http.StatusOK {
		t.Fatal(code)
	}
	if code := call(t, st.hs, carol.Session, http.MethodPost, path+"/leave", map[string]any{}, nil); code != http.StatusOK {
		t.Fatal(code)
	}
	st.told()
	cannotRead(t, carol, st.send(room, "she declined"))
	st.noted(room, carol.UserID, "invite")
	cannotRead(t, carol, st.send(room, "at once"))
	st.later(time.Minute)
	st.told()
	cannotRead(t, carol, st.send(room, "a minute later"))
}

// The same with the removal of somebody who was let in again meanwhile: she can read what is sent.
func TestSlowAnswerToAKick(t *testing.T) {
	t.Parallel()
	st := stillStage(t)
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, carol.UserID)
	st.sync()
	reads(t, carol, st.send(room, "before"))
	st.hs.Inject(room, memberEvent(carol.UserID, "leave"))
	st.hs.Inject(room, memberEvent(carol.UserID, "join"))
	st.told()
	reads(t, carol, st.send(room, "she is back"))
	st.noted(room, carol.UserID, "leave")
	st.later(time.Minute)
	st.told()
	reads(t, carol, st.send(room, "a minute later"))
}

// Alice's client lets those who are invited read, and the answer is slow; bob lets only members
// read, which the proxy hears first. That is what holds, also after a restart.
func TestSlowAnswerToAVisibility(t *testing.T) {
	t.Parallel()
	st := stillStage(t)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	dave, _ := confirmedPuppet(t, st.hs, "dave", "DAVE")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.hs.Inject(room, memberEvent(dave.UserID, "invite"))
	stateOf(t, st.hs, st.alice, room, "m.room.history_visibility", map[string]any{"history_visibility": "shared"})
	st.visible(room, bob, "joined")
	st.sync()
	cannotRead(t, dave, st.send(room, "for members"))
	if err := st.dev.NoteVisibility(t.Context(), id.RoomID(room), "shared"); err != nil {
		t.Fatal(err)
	}
	cannotRead(t, dave, st.send(room, "at once"))
	st.later(time.Minute)
	st.sync()
	cannotRead(t, dave, st.send(room, "a minute later"))
	st.again()
	cannotRead(t, dave, st.send(room, "after a restart"))
}

// The visibility is read for a send, and the answer is slow. It changes, which the proxy hears, and
// a sync from before has it asked again. What was read then counts no more.
func TestReadOfTheVisibilityIsOvertaken(t *testing.T) {
	t.Parallel()
	st := stillStage(t)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	dave, _ := confirmedPuppet(t, st.hs, "dave", "DAVE")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.sync()
	st.visible(room, bob, "shared")
	st.hs.Inject(room, memberEvent(dave.UserID, "invite"))
	overtaken := func(change func()) { // the client's sync says something of the visibility, and is slow
		t.Helper()
		in, err := st.dev.BeginSync(t.Context(), st.since)
		if err != nil {
			t.Fatal(err)
		}
		defer in.End()
		var slow clientResponse
		if code := call(t, st.hs, st.alice, http.MethodGet, "sync?timeout=0&since="+st.since, nil, &slow); code != http.StatusOK {
			t.Fatalf("sync answers %d", code)
		}
		change()
		st.told()
		if _, err := in.Commit(t.Context(), slow.update(st.since)); err != nil {
			t.Fatal(err)
		}
	}
	overtaken(func() {}) // the next use asks
	gate := liar.NewGate()
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "state/m.room.history_visibility")), liar.First(1, gate.After))()
	sent := make(chan header, 1)
	go func() {
		h, err := st.trySend(room, "begun while it was shared")
		if err != nil {
			t.Error(err)
		}
		sent <- h
	}()
	<-gate.Arrived()
	overtaken(func() { st.visible(room, bob, "joined") })
	gate.Open()
	h := <-sent
	reads(t, bob, h)
	cannotRead(t, dave, h)
	cannotRead(t, dave, st.send(room, "later"))
	st.again()
	cannotRead(t, dave, st.send(room, "after a restart"))
}

// A rule asks of the room, and what the homeserver shows of its visibility lags behind the change:
// who may read is decided by the change, and nothing is held up.
func TestVisibilityLagsWithARuleAboutTheRoom(t *testing.T) {
	t.Parallel()
	change := ruled(t, denied("public", rules.When{Direction: []string{"send_key"}, RoomPublic: new(true)}))
	st := newStage(t, func(o *e2ee.Options) { change(o); o.OwnSyncAfter = time.Hour })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	other := st.hs.Login("erin", "ERIN")
	erin := st.device(other)
	ready(t, erin)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, other.UserID)
	stateOf(t, st.hs, st.alice, room, "m.room.history_visibility", map[string]any{"history_visibility": "shared"})
	st.told()
	says := func(text string) {
		t.Helper()
		made, err := erin.Encrypt(t.Context(), st.outgoing(room, text))
		if err != nil {
			t.Fatal(err)
		}
		reads(t, bob, headerOf(t, made.Content))
	}
	reads(t, bob, st.send(room, "before"))
	says("from erin")
	if err := st.dev.NoteVisibility(t.Context(), id.RoomID(room), "joined"); err != nil {
		t.Fatal(err)
	}
	says("from erin, right after")
	st.restartClient()
	reads(t, bob, st.send(room, "after"))
}

// A room is looked at for a send into it. Before the last answer comes, an upgrade records that
// nothing may be sent there in clear: it does not count as plain.
func TestRoomThatMustBeEncryptedWhileItIsLookedAt(t *testing.T) {
	t.Parallel()
	st := stillStage(t)
	room := st.hs.CreateRoom(false, st.alice.UserID)
	gate := liar.NewGate()
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "state/m.room.create")), liar.First(1, gate.After))()
	got := make(chan e2ee.RoomEncryption, 1)
	go func() {
		how, err := st.dev.RoomEncryption(t.Context(), id.RoomID(room))
		if err == nil {
			t.Error("it was found out")
		}
		got <- how
	}()
	<-gate.Arrived()
	if err := st.eng.MustEncrypt(t.Context(), id.RoomID(room)); err != nil {
		t.Fatal(err)
	}
	gate.Open()
	if how := <-got; how != e2ee.RoomUnknown {
		t.Errorf("it is %v", how)
	}
}

// A first sync that the homeserver repeats from memory shows that a key may be used longer than the
// room allows by now: each message has a key of its own still.
func TestRepeatedFirstSyncShowsOldLimits(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	st.hs.Intercept(beginsAgain(st.alice.UserID), liar.Remembered())
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.restartClient()
	stateOf(t, st.hs, st.alice, room, "m.room.encryption", map[string]any{"algorithm": megolmAlgorithm, "rotation_period_msgs": 1})
	if err := st.dev.NoteEncryption(t.Context(), id.RoomID(room), []byte(`{"algorithm":"`+megolmAlgorithm+`","rotation_period_msgs":1}`)); err != nil {
		t.Fatal(err)
	}
	if a, b := st.send(room, "one"), st.send(room, "two"); a.session == b.session {
		t.Fatal("the limit is not kept at all")
	}
	st.restartClient()
	if a, b := st.send(room, "three"), st.send(room, "four"); a.session == b.session {
		t.Error("one key for two messages")
	}
}
