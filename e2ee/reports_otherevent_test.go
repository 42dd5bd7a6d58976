package e2ee_test

import (
	"errors"
	"net/http"
	"regexp"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// Report: Dendrite 0.15.2, asked for the m.room.encryption of a room that has none, shows
// those who are invited, or have left, the room's m.room.create instead, with 200. A room was
// taken for encrypted in a way that nobody knows from then on, for ever, because somebody
// asked before joining it.
//
// Expected: an answer that names no algorithm tells nothing. Nothing is sent on it, and
// nothing is remembered: the next answer counts.
func TestAnotherEventInTheEncryptionsPlace(t *testing.T) {
	t.Parallel()
	hs := liar.New(t)
	alice := newPerson(t, hs, "alice", "ALICE")
	room := id.RoomID(hs.CreateRoom(false, alice.UserID))
	for _, content := range []string{`{"creator":"@bob:hs","room_version":"10"}`, `{}`, `{"algorithm":""}`, `{"algorithm":null}`} {
		remove := hs.Intercept(liar.Is("GET", "/state/m.room.encryption"), func(*liar.Request, func() liar.Reply) liar.Reply {
			return liar.Reply{Status: http.StatusOK, Body: []byte(content)}
		})
		if got, err := alice.dev.RoomEncryption(t.Context(), room); got != e2ee.RoomUnknown || !errors.Is(err, e2ee.ErrCannotEncrypt) {
			t.Errorf("%s: the room's encryption is %v, %v", content, got, err)
		}
		remove()
	}
	for range 2 {
		if got, err := alice.dev.RoomEncryption(t.Context(), room); err != nil || got != e2ee.RoomPlain {
			t.Errorf("the room's encryption is %v, %v, want plain", got, err)
		}
		alice.restart()
	}
}

// The same for a token without a device, for a device with keys of its own, and of a room that
// another one replaces: nothing is noted for the database, so that nobody is refused in the
// old room or the new one because somebody asked before joining.
func TestAnotherEventIsNotedForNobody(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	carol, dave := st.hs.Login("carol", "CAROL"), st.hs.Login("dave", "DAVE")
	ownKeys(t, st.hs, dave)
	old := st.hs.CreateRoom(false, st.alice.UserID, carol.UserID, dave.UserID)
	asked := []id.RoomID{id.RoomID(old)}
	ask := map[string]func(room string) (e2ee.RoomEncryption, error){
		"a device": func(room string) (e2ee.RoomEncryption, error) {
			return st.dev.RoomEncryption(t.Context(), id.RoomID(room))
		},
		"a token without a device": func(room string) (e2ee.RoomEncryption, error) {
			return st.eng.RoomEncryption(t.Context(), id.UserID(carol.UserID), id.RoomID(room), reader(t, st.hs, carol))
		},
		"keys of its own": func(room string) (e2ee.RoomEncryption, error) {
			return st.device(dave).RoomEncryption(t.Context(), id.RoomID(room))
		},
	}
	for _, content := range []string{`{"creator":"@bob:hs","room_version":"10"}`, `{"algorithm":7}`} {
		remove := st.hs.Intercept(liar.Is("GET", regexp.QuoteMeta(old)+"/state/m.room.encryption"), func(*liar.Request, func() liar.Reply) liar.Reply {
			return liar.Reply{Status: http.StatusOK, Body: []byte(content)}
		})
		next := st.hs.CreateRoom(false, st.alice.UserID, carol.UserID, dave.UserID)
		st.hs.Inject(next, stateEvent(st.alice.UserID, "m.room.create", map[string]any{"predecessor": map[string]string{"room_id": old}}))
		asked = append(asked, id.RoomID(next))
		for who, ask := range ask {
			if got, err := ask(old); got != e2ee.RoomUnknown || !errors.Is(err, e2ee.ErrCannotEncrypt) {
				t.Errorf("%s, %s: the room's encryption is %v, %v", who, content, got, err)
			}
			if got, err := ask(next); got != e2ee.RoomPlain || err != nil {
				t.Errorf("%s, %s: that of the room in its place is %v, %v", who, content, got, err)
			}
		}
		remove()
	}
	known, err := st.db.EncryptedRooms(t.Context(), asked)
	if err != nil || len(known) != 0 {
		t.Errorf("the database knows %v, %v", known, err)
	}
	for who, ask := range ask {
		if got, err := ask(old); got != e2ee.RoomPlain || err != nil {
			t.Errorf("%s: then the room's encryption is %v, %v", who, got, err)
		}
	}
}
