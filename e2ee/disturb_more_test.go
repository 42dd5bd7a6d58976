package e2ee_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
)

// An exception for a device is taken back. Once that was answered, the device is given
// nothing more and is not shown; an error may leave it as it was, until it is done again.
func TestDisturbedOverride(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 2, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		odd := newPuppet(t, st.hs, "bob", "ODD")
		room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
		st.override(odd, new(true))
		st.send(room, "for the odd device too")
		return scene{
			work: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				return st.dev.SetOverride(ctx, id.UserID(bob.UserID), "ODD", nil)
			},
			outcome: func() string {
				if err := st.use(t.Context()); err != nil {
					t.Fatal(err)
				}
				st.send(room, "not for it any more")
				said := odd.newMegolm(room)
				said.share(st.target())
				code := st.wantHidden(said.say("not shown"), "not shown")
				return fmt.Sprintf("bob:\n%s\nodd:\n%s\n%s", bob.reads(room), odd.reads(room), code)
			},
		}
	})
}

// A device whose messages no session can read gets a new session, once, whatever disturbs
// the note of it or the making of the session, and is heard over it.
func TestDisturbedUnwedging(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 5, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		st.sync()
		st.sendUnreadable(bob)
		return scene{
			work: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				if err := st.syncWith(ctx); err != nil {
					return err
				}
				st.dev.Maintain(ctx)
				return nil
			},
			outcome: func() string {
				await(t, "bob gets no new session", func() bool {
					if err := st.use(t.Context()); err != nil {
						t.Fatal(err)
					}
					st.sync()
					st.dev.Maintain(t.Context())
					return bob.dummies() > 0
				})
				st.again()
				st.dev.Maintain(t.Context())
				st.hears(bob)
				return fmt.Sprint(bob.dummies())
			},
		}
	})
}

// A key comes for an event that the client was shown as unreadable. The event is delivered in
// clear, in a response that the client gets, and not once more after that.
func TestDisturbedLateDelivery(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 10, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		room, bob, _ := hear(t, st)
		said, give := keyed(st, bob, room)
		event := said.say("its key is late")
		st.sync()
		give()
		return scene{
			work: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				if err := st.syncWith(ctx); err != nil { // brings the key
					return err
				}
				return st.syncWith(ctx)
			},
			outcome: func() string {
				if err := st.use(t.Context()); err != nil {
					t.Fatal(err)
				}
				st.awaitText(event, "its key is late")
				st.sync()
				delete(st.shown, event)
				for range 2 {
					st.sync()
				}
				st.again()
				st.sync()
				return fmt.Sprint("shown again: ", st.shown[event] != nil)
			},
		}
	})
}

// Somebody's identity changes, and the news of it is disturbed: the warning does not get lost,
// and nothing is sent to the new identity.
func TestDisturbedWarnings(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 2, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
		st.send(room, "before")
		newIdentity(t, st.hs, bob.Session).confirm(bob)
		return scene{
			work: func(ctx context.Context) error {
				if err := st.use(ctx); err != nil {
					return err
				}
				if err := st.dev.SyncNow(ctx); err != nil {
					return err
				}
				st.dev.Maintain(ctx)
				_, err := st.dev.User(ctx, id.UserID(bob.UserID))
				return err
			},
			outcome: func() string {
				if err := st.use(t.Context()); err != nil {
					t.Fatal(err)
				}
				_, err := st.trySend(room, "held up")
				if _, blocked := errors.AsType[*e2ee.IdentityChangedError](err); !blocked {
					t.Errorf("the send to a new identity ends with %v", err)
				}
				await(t, "no warning", func() bool { st.dev.Maintain(t.Context()); return codes(t, st.dev) == "identity_changed" })
				st.again()
				sent := len(st.hs.Requests(liar.Of(st.alice.UserID, liar.Is(http.MethodPut, "/send/m.room.encrypted/"))))
				return fmt.Sprint(codes(t, st.dev), sent)
			},
		}
	})
}
