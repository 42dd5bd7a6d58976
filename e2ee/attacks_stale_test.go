package e2ee_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// beginsAgain chooses the syncs of a user that begin anew.
func beginsAgain(user string) liar.Match {
	sync := liar.Of(user, liar.Is(http.MethodGet, "/sync$"))
	return func(r *liar.Request) bool { return sync(r) && !strings.Contains(r.Query, "since=") }
}

// restartClient has the client forget where it was, as one does that is started anew.
func (st *stage) restartClient() {
	st.t.Helper()
	st.since = ""
	st.sync()
}

// stateOf sends a state event as a user.
func stateOf(t *testing.T, hs *liar.Server, who liar.Session, room, eventType string, content any) {
	t.Helper()
	if code := call(t, hs, who, http.MethodPut, "rooms/"+url.PathEscape(room)+"/state/"+eventType+"/", content, nil); code != http.StatusOK {
		t.Fatalf("%s: %d", eventType, code)
	}
}

// Reported: a first sync that is repeated within two minutes comes from Synapse's memory. It
// says that somebody is still in the room who has left it since, and the proxy knew better:
// who has left is given no key.
func TestRepeatedFirstSyncNamesSomebodyWhoLeft(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	st.hs.Intercept(beginsAgain(st.alice.UserID), liar.Remembered())
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	st.restartClient()
	first := st.send(room, "with carol")
	reads(t, carol, first)
	if code := call(t, st.hs, carol.Session, http.MethodPost, "rooms/"+url.PathEscape(room)+"/leave", map[string]any{}, nil); code != http.StatusOK {
		t.Fatal(code)
	}
	st.sync()
	second := st.send(room, "without carol")
	cannotRead(t, carol, second)
	st.restartClient()
	third := st.send(room, "still without carol")
	reads(t, bob, third)
	cannotRead(t, carol, third)
}

// The same for the history's visibility: invited users get keys by what holds now, not by
// what held when the homeserver last made up a first sync.
func TestRepeatedFirstSyncShowsOldVisibility(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	st.hs.Intercept(beginsAgain(st.alice.UserID), liar.Remembered())
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	dave, _ := confirmedPuppet(t, st.hs, "dave", "DAVE")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	stateOf(t, st.hs, st.alice, room, "m.room.history_visibility", map[string]any{"history_visibility": "shared"})
	if code := call(t, st.hs, st.alice, http.MethodPost, "rooms/"+url.PathEscape(room)+"/invite", map[string]any{"user_id": dave.UserID}, nil); code != http.StatusOK {
		t.Fatal(code)
	}
	st.restartClient()
	reads(t, dave, st.send(room, "for the invited too"))
	stateOf(t, st.hs, st.alice, room, "m.room.history_visibility", map[string]any{"history_visibility": "joined"})
	st.sync()
	cannotRead(t, dave, st.send(room, "for members"))
	st.restartClient()
	last := st.send(room, "still for members")
	reads(t, bob, last)
	cannotRead(t, dave, last)
}

// A homeserver that has accepted that only members may read, and that shows otherwise for a while,
// in syncs and where it is asked: nobody who is only invited gets a key from any account of this
// proxy. Later it is believed.
func TestVisibilityLagsBehindItsChange(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	dave, _ := confirmedPuppet(t, st.hs, "dave", "DAVE")
	other := st.hs.Login("erin", "ERIN")
	erin := st.device(other)
	ready(t, erin)
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, other.UserID)
	stateOf(t, st.hs, st.alice, room, "m.room.history_visibility", map[string]any{"history_visibility": "shared"})
	st.hs.Inject(room, memberEvent(dave.UserID, "invite"))
	st.told()
	says := func(text string) header {
		t.Helper()
		made, err := erin.Encrypt(t.Context(), st.outgoing(room, text))
		if err != nil {
			t.Fatal(err)
		}
		return headerOf(t, made.Content)
	}
	reads(t, dave, st.send(room, "for the invited too"))
	reads(t, dave, says("from erin"))
	if err := st.dev.NoteVisibility(t.Context(), id.RoomID(room), "joined"); err != nil {
		t.Fatal(err)
	}
	cannotRead(t, dave, st.send(room, "for members"))
	cannotRead(t, dave, says("for members from erin"))
	st.restartClient()
	last := st.send(room, "still for members")
	reads(t, bob, last)
	cannotRead(t, dave, last)
	st.later(time.Minute)
	st.restartClient()
	reads(t, dave, st.send(room, "it was set back"))
}

// A first sync from memory that shows no encryption, and a list of state that is cut short
// before it, as Dendrite's /context gives one, are no ground for clear text: the room stays
// encrypted for whoever knew it, also when the homeserver no longer shows the event.
func TestListsWithoutEncryptionProveNothing(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	st.hs.Intercept(beginsAgain(st.alice.UserID), liar.Remembered())
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(false, st.alice.UserID, bob.UserID)
	st.restartClient()
	stateOf(t, st.hs, st.alice, room, "m.room.encryption", map[string]any{"algorithm": "m.megolm.v1.aes-sha2"})
	st.sync()
	st.hs.Forget(room, "m.room.encryption", "")
	for _, again := range []func(){func() {}, st.again} {
		again()
		st.restartClient()
		if got, err := st.dev.RoomEncryption(t.Context(), id.RoomID(room)); err != nil || got != e2ee.RoomEncrypted {
			t.Errorf("the room's encryption is %v, %v", got, err)
		}
		if _, err := st.dev.LoadRooms(t.Context(), []id.RoomID{id.RoomID(room)}); err != nil || !st.dev.KnownEncrypted(id.RoomID(room)) {
			t.Errorf("the room is not known to be encrypted, %v", err)
		}
	}
}

// A 404 that does not say that there is no such event says nothing of the room: something
// else than a homeserver may have answered. Invited users get no key because of it.
func TestVisibilityThatNobodyTold(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	st.hs.Intercept(liar.Of(st.alice.UserID, liar.Is(http.MethodGet, "/sync$")), liar.Edit(func(_ *liar.Request, body map[string]any) {
		eachEvent(body, func(ev map[string]any) { // no sync tells
			if ev["type"] == "m.room.history_visibility" {
				ev["type"] = "org.example.other"
			}
		})
	}))
	st.again() // the sync that waits already is none of these
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	remove := st.hs.Intercept(liar.Is(http.MethodGet, "state/m.room.history_visibility"), liar.Fail(http.StatusNotFound, "M_UNRECOGNIZED"))
	if _, err := st.trySend(room, "to whom"); err == nil {
		t.Error("sent although nobody can tell who may read it")
	}
	remove()
	reads(t, bob, st.send(room, "to bob"))
}
