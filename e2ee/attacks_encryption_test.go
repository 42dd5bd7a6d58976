package e2ee_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// reader reads state as a client with a session does that has no device here.
func reader(t *testing.T, hs *liar.Server, s liar.Session) e2ee.StateReader {
	t.Helper()
	return func(_ context.Context, room id.RoomID, eventType string) (json.RawMessage, error) {
		var content json.RawMessage
		code, err := try(hs, s, http.MethodGet, "rooms/"+url.PathEscape(room.String())+"/state/"+eventType, nil, &content)
		switch {
		case err != nil:
			return nil, err
		case code == http.StatusNotFound:
			return nil, e2ee.ErrNoState
		case code == http.StatusForbidden:
			return nil, e2ee.ErrNotInRoom
		case code != http.StatusOK:
			return nil, fmt.Errorf("status %d", code)
		}
		return content, nil
	}
}

// Attack vector (A20 for everybody): one device has learned that a room is encrypted. From
// then on the homeserver hides the state event, in syncs and when it is asked, from all who
// have not seen it: a second device of the account, another account, a login after a logout,
// a token without a device, the heir of a closed account, all of them after a restart too.
//
// Expected: that a room is encrypted is known once for the whole database and for ever. What
// is hidden from one changes nothing for anyone; nobody takes the room for plain.
func TestEncryptionHiddenFromOthers(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	carol := st.hs.Login("carol", "CAROL")
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
	reads(t, bob, st.send(room, "while it is shown"))
	st.hs.Forget(room, "m.room.encryption", "")

	want := func(who string, how e2ee.RoomEncryption, err error) {
		t.Helper()
		if how != e2ee.RoomEncrypted || err != nil {
			t.Errorf("for %s the room is %d, %v", who, how, err)
		}
	}
	everybody := func(when string) {
		t.Helper()
		second := st.device(st.hs.Login("alice", "SECOND"))
		how, err := second.RoomEncryption(t.Context(), id.RoomID(room))
		want(when+": a second device", how, err)
		if !second.KnownEncrypted(id.RoomID(room)) {
			t.Errorf("%s: what comes in clear is not told from what was encrypted", when)
		}
		how, err = st.device(carol).RoomEncryption(t.Context(), id.RoomID(room))
		want(when+": another account", how, err)
		how, err = st.eng.RoomEncryption(t.Context(), id.UserID(carol.UserID), id.RoomID(room), reader(t, st.hs, carol))
		want(when+": a token without a device", how, err)
	}
	everybody("at once")
	st.again()
	everybody("after a restart")

	if code := call(t, st.hs, st.alice, http.MethodPost, "logout", map[string]any{}, nil); code != http.StatusOK {
		t.Fatalf("logout: %d", code)
	}
	if err := st.eng.Forget(t.Context(), id.UserID(st.alice.UserID), id.DeviceID(st.alice.DeviceID)); err != nil {
		t.Fatal(err)
	}
	again := st.device(st.hs.Login("alice", "ALICE"))
	how, err := again.RoomEncryption(t.Context(), id.RoomID(room))
	want("a login after a logout", how, err)

	st.hs.CloseAccount("carol")
	if err := st.eng.ForgetAccount(t.Context(), id.UserID(carol.UserID)); err != nil {
		t.Fatal(err)
	}
	carol = st.hs.Login("carol", "CAROL")
	st.hs.Inject(room, memberEvent(carol.UserID, "join"))
	everybody("after an account was closed")
}

// Attack A22 for everybody: what others are shown in the place of the event that one device
// has seen, another algorithm or none, weakens nothing.
func TestEncryptionWeakenedForOthers(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	carol := st.hs.Login("carol", "CAROL")
	for i, content := range []any{map[string]any{"algorithm": "m.none"}, map[string]any{}, map[string]any{"algorithm": nil}} {
		room := st.hs.CreateRoom(true, st.alice.UserID, carol.UserID)
		st.send(room, fmt.Sprintf("as agreed %d", i))
		st.hs.Inject(room, stateEvent(st.alice.UserID, "m.room.encryption", content))
		how, err := st.device(carol).RoomEncryption(t.Context(), id.RoomID(room))
		if how != e2ee.RoomEncrypted || err != nil {
			t.Errorf("with %v another account takes it for %d, %v", content, how, err)
		}
		how, err = st.eng.RoomEncryption(t.Context(), id.UserID(carol.UserID), id.RoomID(room), reader(t, st.hs, carol))
		if how != e2ee.RoomEncrypted || err != nil {
			t.Errorf("with %v a token without a device takes it for %d, %v", content, how, err)
		}
	}
}

// What a token without a device, or a device with keys of its own, finds out is known to
// all as well.
func TestEncryptionLearnedWithoutKeys(t *testing.T) {
	t.Parallel()
	for name, learn := range map[string]func(st *stage, carol liar.Session, room id.RoomID) error{
		"no device": func(st *stage, carol liar.Session, room id.RoomID) error {
			_, err := st.eng.RoomEncryption(st.t.Context(), id.UserID(carol.UserID), room, reader(st.t, st.hs, carol))
			return err
		},
		"keys of its own": func(st *stage, carol liar.Session, room id.RoomID) error {
			ownKeys(st.t, st.hs, carol)
			_, err := st.device(carol).RoomEncryption(st.t.Context(), room)
			return err
		},
		"its client encrypted it": func(st *stage, _ liar.Session, room id.RoomID) error {
			return st.eng.NoteEncryption(st.t.Context(), room, []byte(`{"algorithm":"m.megolm.v1.aes-sha2"}`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newStage(t, nil)
			carol := st.hs.Login("carol", "CAROL")
			room := st.hs.CreateRoom(true, carol.UserID)
			if err := learn(st, carol, id.RoomID(room)); err != nil {
				t.Fatal(err)
			}
			st.hs.Forget(room, "m.room.encryption", "")
			st.hs.Inject(room, memberEvent(st.alice.UserID, "join"))
			st.told()
			st.send(room, "for nobody to read")
			st.again()
			st.send(room, "after a restart")
		})
	}
}

// Attack vector: an encrypted room is upgraded past the proxy, by a homeserver that does not
// copy m.room.encryption, or by an administrator who wants to read. Everybody moves on to
// the new room, which is plain.
//
// Expected: the new room of an encrypted one is one that may be encrypted: nothing goes there
// in clear, for anybody, until it is encrypted itself. Rooms that replace plain ones, or
// ones of which nobody here knows anything, are what they are.
func TestUpgradeLosesEncryption(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	carol := st.hs.Login("carol", "CAROL")
	replace := func(old string, users ...string) string {
		t.Helper()
		next := st.hs.CreateRoom(false, users...)
		st.hs.Inject(next, stateEvent(users[0], "m.room.create", map[string]any{"predecessor": map[string]string{"room_id": old}}))
		return next
	}
	secret := st.hs.CreateRoom(true, st.alice.UserID)
	st.send(secret, "in the old room")
	next := replace(secret, st.alice.UserID, carol.UserID)
	for who, dev := range map[string]*e2ee.Device{"its member": st.dev, "one who was not in the old room": st.device(carol)} {
		if how, err := dev.RoomEncryption(t.Context(), id.RoomID(next)); how != e2ee.RoomUnknown || !errors.Is(err, e2ee.ErrNotYetEncrypted) {
			t.Errorf("for %s the new room is %d, %v", who, how, err)
		}
	}
	if how, err := st.eng.RoomEncryption(t.Context(), id.UserID(carol.UserID), id.RoomID(next), reader(t, st.hs, carol)); how != e2ee.RoomUnknown || !errors.Is(err, e2ee.ErrNotYetEncrypted) {
		t.Errorf("without a device the new room is %d, %v", how, err)
	}
	st.again()
	if how, err := st.dev.RoomEncryption(t.Context(), id.RoomID(next)); !errors.Is(err, e2ee.ErrNotYetEncrypted) {
		t.Errorf("after a restart the new room is %d, %v", how, err)
	}
	st.hs.Inject(next, stateEvent(st.alice.UserID, "m.room.encryption", map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}))
	st.send(next, "in the new room")

	// An old room of which nobody has learned yet is asked about.
	unseen := st.hs.CreateRoom(true, carol.UserID)
	later := replace(replace(unseen, carol.UserID), carol.UserID)
	if how, err := st.device(carol).RoomEncryption(t.Context(), id.RoomID(later)); !errors.Is(err, e2ee.ErrNotYetEncrypted) {
		t.Errorf("two upgrades after the encrypted room it is %d, %v", how, err)
	}

	// One who sees less has asked first.
	old := st.hs.CreateRoom(true, st.hs.Login("erin", "ERIN").UserID)
	next = replace(old, carol.UserID, st.alice.UserID)
	if how, err := st.device(carol).RoomEncryption(t.Context(), id.RoomID(next)); how != e2ee.RoomPlain || err != nil {
		t.Errorf("for one who cannot know it is %d, %v", how, err)
	}
	st.hs.Inject(old, memberEvent(st.alice.UserID, "invite")) // who may look at the room's state here
	if how, err := st.dev.RoomEncryption(t.Context(), id.RoomID(next)); !errors.Is(err, e2ee.ErrNotYetEncrypted) {
		t.Errorf("for one who sees more it is %d, %v", how, err)
	}
	if how, err := st.device(carol).RoomEncryption(t.Context(), id.RoomID(next)); !errors.Is(err, e2ee.ErrNotYetEncrypted) {
		t.Errorf("and then for the other it is %d, %v", how, err)
	}

	elsewhere := st.hs.CreateRoom(true, st.hs.Login("dave", "DAVE").UserID) // who is not known here
	itself := st.hs.CreateRoom(false, st.alice.UserID)
	st.hs.Inject(itself, stateEvent(st.alice.UserID, "m.room.create", map[string]any{"predecessor": map[string]string{"room_id": itself}}))
	for name, room := range map[string]string{
		"of a plain one":     replace(st.hs.CreateRoom(false, st.alice.UserID), st.alice.UserID),
		"of one not seen":    replace("!never:seen", st.alice.UserID),
		"of one not a room":  replace("", st.alice.UserID),
		"of itself":          itself,
		"of others' secrets": replace(elsewhere, st.alice.UserID),
	} {
		if how, err := st.dev.RoomEncryption(t.Context(), id.RoomID(room)); how != e2ee.RoomPlain || err != nil {
			t.Errorf("a room in the place %s is %d, %v", name, how, err)
		}
	}
}

// It cannot be told what a room replaces: nothing is sent (attack A20).
func TestUpgradeCannotBeTold(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	for name, answer := range map[string]liar.Hook{
		"error":     liar.Fail(http.StatusInternalServerError, "M_UNKNOWN"),
		"forbidden": liar.Fail(http.StatusForbidden, "M_FORBIDDEN"),
		"no create": liar.Fail(http.StatusNotFound, "M_NOT_FOUND"),
		"no answer": liar.Cut,
	} {
		room := st.hs.CreateRoom(false, st.alice.UserID)
		done := st.hs.Intercept(liar.Is("GET", "/state/m.room.create"), answer)
		if how, err := st.dev.RoomEncryption(t.Context(), id.RoomID(room)); how != e2ee.RoomUnknown || err == nil {
			t.Errorf("%s: the room is taken for %d, %v", name, how, err)
		}
		done()
		if how, err := st.dev.RoomEncryption(t.Context(), id.RoomID(room)); how != e2ee.RoomPlain || err != nil {
			t.Errorf("after %s: the room is taken for %d, %v", name, how, err)
		}
	}
}
