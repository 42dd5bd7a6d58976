package e2ee_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// A homeserver answers the client before its list of members shows what it answered, as
// Dendrite's does, and the first send follows at once.

// lags has the first lists of members that somebody gets not show what happens with the
// last of them.
func lags(st *stage, lists int, happens func()) (remove func()) {
	return st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "/members$")),
		liar.Nth(lists, func(_ *liar.Request, next func() liar.Reply) liar.Reply {
			stale := next()
			happens()
			return stale
		}))
}

// The list of a new room is empty at first: it is asked for again until the own user and
// whoever was invited with the room are in it (requirement 7.6).
func TestListLagsBehindCreateRoom(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID)
	for user, membership := range map[string]string{st.alice.UserID: "join", bob.UserID: "invite"} {
		if err := st.dev.NoteMembership(t.Context(), id.RoomID(room), id.UserID(user), membership); err != nil {
			t.Fatal(err)
		}
	}
	defer lags(st, 3, func() { st.hs.Inject(room, memberEvent(bob.UserID, "invite")) })()
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("GET", "/members$")),
		liar.First(2, liar.Edit(func(_ *liar.Request, body map[string]any) { body["chunk"] = []any{} })))()
	reads(t, bob, st.send(room, "in the new room"))
}

// The client removes carol, and the list still shows her: she is given nothing
// (requirement 9.3).
func TestListLagsBehindKick(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	st.sync()
	if err := st.dev.NoteMembership(t.Context(), id.RoomID(room), id.UserID(carol.UserID), "leave"); err != nil {
		t.Fatal(err)
	}
	defer lags(st, 2, func() { st.hs.Inject(room, memberEvent(carol.UserID, "leave")) })()
	h := st.send(room, "without carol")
	reads(t, bob, h)
	cannotRead(t, carol, h)
}

// Alice's client removes carol, and bob, whose keys are here too, writes before anything shows
// it to him: carol is given nothing. Carol's own device here is refused at once.
func TestAnotherAccountKicks(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob := &stage{rig: st.rig, alice: st.hs.Login("bob", "BOB"), shown: make(map[string]map[string]any)}
	carol := &stage{rig: st.rig, alice: st.hs.Login("carol", "CAROL"), shown: make(map[string]map[string]any)}
	for _, other := range []*stage{bob, carol} {
		other.dev = other.device(other.alice)
		ready(t, other.dev)
	}
	spy, _ := confirmedPuppet(t, st.hs, "spy", "SPY")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.alice.UserID, carol.alice.UserID, spy.UserID)
	for _, one := range []*stage{st, bob, carol} {
		one.sync()
	}
	reads(t, spy, bob.send(room, "with the spy"))
	carol.send(room, "carol is here")
	for _, removed := range []string{spy.UserID, carol.alice.UserID} {
		if err := st.dev.NoteMembership(t.Context(), id.RoomID(room), id.UserID(removed), "leave"); err != nil {
			t.Fatal(err)
		}
	}
	st.later(-time.Minute) // however slow the machine, what was accepted still counts
	defer lags(bob, 2, func() {
		st.hs.Inject(room, memberEvent(spy.UserID, "leave"))
		st.hs.Inject(room, memberEvent(carol.alice.UserID, "leave"))
	})()
	cannotRead(t, spy, bob.send(room, "without the spy"))
	_, err := carol.dev.Encrypt(t.Context(), carol.outgoing(room, "carol is not here"))
	wantErr(t, "carol's send", err, e2ee.ErrNotJoined)
}

// Carol comes and goes and is removed, and the syncs that follow lag behind too: they show
// her older leave and join. She is given nothing, whatever is known of the members already
// (requirement 9.3).
func TestSyncLagsBehindKick(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	st.sync()
	reads(t, carol, st.send(room, "with carol"))
	if err := st.dev.NoteMembership(t.Context(), id.RoomID(room), id.UserID(carol.UserID), "leave"); err != nil {
		t.Fatal(err)
	}
	st.hs.Inject(room, memberEvent(carol.UserID, "leave"))
	st.hs.Inject(room, memberEvent(carol.UserID, "join"))
	st.sync() // began after the removal was accepted
	defer lags(st, 2, func() { st.hs.Inject(room, memberEvent(carol.UserID, "leave")) })()
	h := st.send(room, "without carol")
	reads(t, bob, h)
	cannotRead(t, carol, h)
}

// An invite that the homeserver accepted never shows, as when the invitee declines at
// once: the message goes out to the others. A removal that never shows holds it up.
func TestListThatStaysBehind(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		membership string
		want       error
	}{
		"invite":  {membership: "invite"},
		"removal": {membership: "leave", want: e2ee.ErrCannotEncrypt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
			carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
			users := []string{st.alice.UserID}
			if c.membership == "leave" {
				users = append(users, carol.UserID)
			}
			room := st.hs.CreateRoom(true, users...)
			st.sync()
			if err := st.dev.NoteMembership(t.Context(), id.RoomID(room), id.UserID(carol.UserID), c.membership); err != nil {
				t.Fatal(err)
			}
			st.later(-time.Minute) // however slow the machine, what was accepted still counts
			asked := len(st.hs.Requests(liar.Is(http.MethodGet, "/members$")))
			_, err := st.dev.Encrypt(t.Context(), e2ee.Outgoing{
				RoomID: id.RoomID(room), Type: "m.room.message", TxnID: "t1", Content: []byte(`{"msgtype":"m.text","body":"x"}`),
			})
			if !errors.Is(err, c.want) {
				t.Errorf("the send gives %v, not %v", err, c.want)
			}
			if asked = len(st.hs.Requests(liar.Is(http.MethodGet, "/members$"))) - asked; asked != 9 {
				t.Errorf("the list was asked for %d times", asked)
			}
		})
	}
}
