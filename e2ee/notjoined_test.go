package e2ee_test

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// Reported (of other software, and shown on ours): a send into an encrypted room that one
// is not in took 4.6 s and nine lists of members for a 503, and sends to the room queued
// up behind each other until their clients gave up. A homeserver says 403 at once.

// notJoined has alice be in a room that is encrypted, as she knows, and then not any more.
func notJoined(t *testing.T, membership string) (st *stage, room string) {
	t.Helper()
	st = newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room = st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	reads(t, bob, st.send(room, "while in the room"))
	st.sync()
	if membership == "invite" || membership == "knock" { // nobody goes there from within the room
		st.hs.Inject(room, memberEvent(st.alice.UserID, "leave"))
		st.sync()
	}
	st.hs.Inject(room, memberEvent(st.alice.UserID, membership))
	return st, room
}

// asksFor counts the lists of members that a device asked for.
func (st *stage) asksFor(what func()) int {
	lists := liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "/members$"))
	before := len(st.hs.Requests(lists))
	what()
	return len(st.hs.Requests(lists)) - before
}

// Left elsewhere, kicked, banned, or invited again only: refused, after one list at most
// for each send, and with nothing sent, also when there are many sends.
func TestSendIntoARoomOneIsNotIn(t *testing.T) {
	t.Parallel()
	for _, membership := range []string{"leave", "ban", "invite", "knock"} {
		t.Run(membership, func(t *testing.T) {
			t.Parallel()
			st, room := notJoined(t, membership)
			st.sync()
			const sends = 10
			outs := make([]e2ee.Outgoing, sends)
			for i := range outs {
				outs[i] = st.outgoing(room, "not in the room")
			}
			sent := len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is(http.MethodPut, "/send"))))
			errs := make([]error, sends)
			asked := st.asksFor(func() {
				var all sync.WaitGroup
				for i := range outs {
					all.Go(func() { _, errs[i] = st.dev.Encrypt(t.Context(), outs[i]) })
				}
				all.Wait()
			})
			for _, err := range errs {
				wantErr(t, "the send", err, e2ee.ErrNotJoined)
			}
			if asked > sends {
				t.Errorf("the list was asked for %d times by %d sends", asked, sends)
			}
			if now := len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is(http.MethodPut, "/send")))); now != sent {
				t.Errorf("%d requests went out", now-sent)
			}
		})
	}
}

// The client has just left, as the homeserver accepted, and the list lags behind and still
// shows it, or fails: nothing is asked or sent.
func TestSendAfterLeaving(t *testing.T) {
	t.Parallel()
	st, room := notJoined(t, "join")
	if err := st.dev.NoteMembership(t.Context(), id.RoomID(room), id.UserID(st.alice.UserID), "leave"); err != nil {
		t.Fatal(err)
	}
	var err error
	if asked := st.asksFor(func() { _, err = st.dev.Encrypt(t.Context(), st.outgoing(room, "after leaving")) }); asked > 0 {
		t.Errorf("the list was asked for %d times", asked)
	}
	wantErr(t, "the send", err, e2ee.ErrNotJoined)
}

// The client has just joined, which shows, and is removed at once: nothing lags any more.
func TestRemovedRightAfterJoining(t *testing.T) {
	t.Parallel()
	st, room := notJoined(t, "leave")
	st.sync()
	if err := st.dev.NoteMembership(t.Context(), id.RoomID(room), id.UserID(st.alice.UserID), "join"); err != nil {
		t.Fatal(err)
	}
	st.hs.Inject(room, memberEvent(st.alice.UserID, "join"))
	st.send(room, "after joining")
	st.later(-time.Minute) // however slow the machine, what was accepted still counts
	st.hs.Inject(room, memberEvent(st.alice.UserID, "leave"))
	st.sync()
	var err error
	if asked := st.asksFor(func() { _, err = st.dev.Encrypt(t.Context(), st.outgoing(room, "after the removal")) }); asked > 1 {
		t.Errorf("the list was asked for %d times", asked)
	}
	wantErr(t, "the send", err, e2ee.ErrNotJoined)
}

// The client has just joined, as the homeserver accepted: a list without it lags behind,
// and is waited for. One that never shows it ends in the same refusal.
func TestSendAfterJoining(t *testing.T) {
	t.Parallel()
	for name, shows := range map[string]bool{"shows late": true, "never shows": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, room := notJoined(t, "leave")
			st.sync()
			if err := st.dev.NoteMembership(t.Context(), id.RoomID(room), id.UserID(st.alice.UserID), "join"); err != nil {
				t.Fatal(err)
			}
			st.later(-time.Minute) // however slow the machine, what was accepted still counts
			defer lags(st, 3, func() {
				if shows {
					st.hs.Inject(room, memberEvent(st.alice.UserID, "join"))
				}
			})()
			var err error
			asked := st.asksFor(func() { _, err = st.dev.Encrypt(t.Context(), st.outgoing(room, "after joining")) })
			if shows && (err != nil || asked != 4) {
				t.Errorf("%v, after %d lists", err, asked)
			}
			if !shows && asked != 9 {
				t.Errorf("%d lists", asked)
			}
			if !shows {
				wantErr(t, "the send", err, e2ee.ErrNotJoined)
			}
		})
	}
}

// The homeserver's list fails for a moment, as Dendrite's does right after somebody was
// removed (it has no place in the room's history for them yet): it is asked for again, and
// the answer is the refusal. One that fails for ever is told as the homeserver's failure.
func TestListFailsAfterRemoval(t *testing.T) {
	t.Parallel()
	for name, lists := range map[string]int{"twice": 2, "always": 1000} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, room := notJoined(t, "leave")
			st.sync()
			defer st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "/members$")),
				liar.First(lists, liar.Fail(http.StatusInternalServerError, "M_UNKNOWN")))()
			var err error
			asked := st.asksFor(func() { _, err = st.dev.Encrypt(t.Context(), st.outgoing(room, "after the removal")) })
			if lists == 2 {
				wantErr(t, "the send", err, e2ee.ErrNotJoined)
			} else if up, ok := errors.AsType[*e2ee.UpstreamError](err); !ok || up.Status != http.StatusInternalServerError {
				t.Errorf("the send gives %v", err)
			}
			if asked < 3 || asked > 4 {
				t.Errorf("%d lists", asked)
			}
		})
	}
}
