package e2ee_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/liar"
)

// The homeserver has accepted that carol is removed, and its list of members lags behind.
// She cannot read what is sent next, whatever disturbs the note of it; the client does not
// do it again, since it is done.
func TestDisturbedMembership(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 1, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
		room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID, carol.UserID)
		st.send(room, "with carol")
		st.again() // so that what is known of the room has to be read
		if err := st.use(t.Context()); err != nil {
			t.Fatal(err)
		}
		return scene{
			work: func(ctx context.Context) error {
				return st.dev.NoteMembership(ctx, id.RoomID(room), id.UserID(carol.UserID), "leave")
			},
			again: st.use,
			outcome: func() string {
				defer lags(st, 1, func() { st.hs.Inject(room, memberEvent(carol.UserID, "leave")) })()
				st.send(room, "without carol")
				return "bob:\n" + bob.reads(room) + "\ncarol:\n" + carol.reads(room)
			},
		}
	})
}

// The homeserver has accepted that a room is encrypted, and denies it afterwards. Once the
// client was told that it is done, nothing goes there in clear.
func TestDisturbedEncryption(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 1, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		room := st.hs.CreateRoom(false, st.alice.UserID, bob.UserID)
		content := []byte(`{"algorithm":"m.megolm.v1.aes-sha2"}`)
		return scene{
			work: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				return st.dev.NoteEncryption(ctx, id.RoomID(room), content)
			},
			outcome: func() string {
				defer st.hs.Intercept(liar.Is(http.MethodGet, "state/m.room.encryption"), liar.Fail(http.StatusNotFound, "M_NOT_FOUND"))()
				st.send(room, "one")
				st.again()
				st.send(room, "two")
				return bob.reads(room)
			},
		}
	})
}

// The homeserver has accepted that those who are invited read nothing any more, and shows
// otherwise for a while. Once the client was told that it is done, nobody who is only invited
// gets a key.
func TestDisturbedVisibility(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 1, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		carol, _ := confirmedPuppet(t, st.hs, "carol", "CAROL")
		room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
		st.hs.Inject(room, stateEvent(bob.UserID, "m.room.history_visibility", map[string]string{"history_visibility": "shared"}))
		st.hs.Inject(room, memberEvent(carol.UserID, "invite"))
		st.told()
		st.send(room, "for who is invited too")
		return scene{
			work: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				return st.dev.NoteVisibility(ctx, id.RoomID(room), "joined")
			},
			outcome: func() string {
				if err := st.use(t.Context()); err != nil {
					t.Fatal(err)
				}
				st.send(room, "for members")
				return fmt.Sprintf("bob:\n%s\ncarol:\n%s", bob.reads(room), carol.reads(room))
			},
		}
	})
}
