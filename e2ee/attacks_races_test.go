package e2ee_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// Syncs and sends happen at the same time, and answers arrive in any order. Whatever the
// order, nobody is given a key that is known to have left.

// The client's sync is answered while carol is a member and arrives after the proxy has
// heard that she left, from a sync of its own or because the client removed her. That it
// is older cannot be seen in it. She is given nothing.
func TestOvertakenSync(t *testing.T) {
	t.Parallel()
	for name, hear := range map[string]func(t *testing.T, st *stage, room, carol string){
		"by another sync": func(_ *testing.T, st *stage, _, _ string) { st.told() },
		"by the client": func(t *testing.T, st *stage, room, carol string) {
			if err := st.dev.NoteMembership(t.Context(), id.RoomID(room), id.UserID(carol), "leave"); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
			bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
			carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
			room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
			st.sync()
			st.send(room, "before")
			st.hs.Inject(room, memberEvent(carol.UserID, "join"))
			in, err := st.dev.BeginSync(t.Context(), st.since)
			if err != nil {
				t.Fatal(err)
			}
			defer in.End()
			var slow clientResponse
			if code := call(t, st.hs, st.alice, http.MethodGet, "sync?timeout=0&since="+st.since, nil, &slow); code != http.StatusOK {
				t.Fatalf("sync answers %d", code)
			}
			st.hs.Inject(room, memberEvent(carol.UserID, "leave"))
			hear(t, st, room, carol.UserID)
			if _, err := in.Commit(t.Context(), slow.update(st.since)); err != nil {
				t.Fatal(err)
			}
			h := st.send(room, "after")
			reads(t, bob, h)
			cannotRead(t, carol, h)
		})
	}
}

// The same with the history visibility: it was shared when the client's sync was
// answered, and is joined by now. Who is invited is given nothing, after a restart too.
func TestOvertakenVisibility(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	is := func(visibility string) {
		st.hs.Inject(room, stateEvent(bob.UserID, "m.room.history_visibility", map[string]string{"history_visibility": visibility}))
	}
	is("joined")
	st.hs.Inject(room, memberEvent(carol.UserID, "invite"))
	st.sync()
	cannotRead(t, carol, st.send(room, "before"))
	is("shared")
	in, err := st.dev.BeginSync(t.Context(), st.since)
	if err != nil {
		t.Fatal(err)
	}
	defer in.End()
	var slow clientResponse
	if code := call(t, st.hs, st.alice, http.MethodGet, "sync?timeout=0&since="+st.since, nil, &slow); code != http.StatusOK {
		t.Fatalf("sync answers %d", code)
	}
	is("joined")
	st.told()
	if _, err := in.Commit(t.Context(), slow.update(st.since)); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"at once", "after a restart"} {
		h := st.send(room, when)
		reads(t, bob, h)
		cannotRead(t, carol, h)
		st.again()
	}
}

// The members of a room are fetched twice at the same time, and carol leaves after the
// first question was answered and before the second is asked. Neither counts her in.
func TestMembersFetchedTwice(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, carol.UserID)
	st.sync()
	first, second := liar.NewGate(), liar.NewGate()
	asks := liar.Of(st.alice.UserID, liar.Is("GET", "/members$"))
	defer st.hs.Intercept(asks, liar.Nth(2, second.After))()
	defer st.hs.Intercept(asks, liar.First(1, first.After))()
	ask := func() chan []id.UserID {
		got := make(chan []id.UserID, 1)
		go func() {
			members, err := st.dev.Recipients(t.Context(), id.RoomID(room))
			if err != nil {
				t.Error(err)
			}
			got <- members
		}()
		return got
	}
	a := ask()
	<-first.Arrived()
	st.hs.Inject(room, memberEvent(carol.UserID, "leave"))
	st.told()
	b := ask()
	<-second.Arrived()
	first.Open()
	got := [][]id.UserID{<-a}
	second.Open()
	for _, members := range append(got, <-b, <-ask()) {
		if !slices.Equal(members, []id.UserID{id.UserID(st.alice.UserID)}) {
			t.Errorf("the members are %v", members)
		}
	}
}

// Somebody leaves after it was decided who is given the key and before it is made: the
// message does not go out under it.
func TestDepartureBeforeTheKeyIsMade(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	gate := liar.NewGate()
	defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is("POST", "keys/query$")), liar.First(1, gate.After))()
	sent := make(chan header, 1)
	go func() {
		h, err := st.trySend(room, "not for carol")
		if err != nil {
			t.Error(err)
		}
		sent <- h
	}()
	<-gate.Arrived()
	st.hs.Inject(room, memberEvent(carol.UserID, "leave"))
	if err := st.dev.NoteMembership(t.Context(), id.RoomID(room), id.UserID(carol.UserID), "leave"); err != nil {
		t.Fatal(err)
	}
	gate.Open()
	h := <-sent
	reads(t, bob, h)
	cannotRead(t, carol, h)
}
