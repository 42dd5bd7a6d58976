package e2ee_test

import (
	"errors"
	"net/http"
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
