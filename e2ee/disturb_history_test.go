package e2ee_test

import (
	"context"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/liar"
)

// History is shared, and an invitation goes on, whatever disturbs it; whoever invites again
// gives it again, and what bob was given is never used for another message.
func TestDisturbedSharingOfHistory(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 10, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
		room, said := st.ownRoom("shared")
		share := func(ctx context.Context) error {
			if err := st.use(ctx); err != nil {
				return err
			}
			st.dev.ShareHistory(ctx, id.RoomID(room), id.UserID(bob.UserID))
			return ctx.Err()
		}
		return scene{
			work: share,
			outcome: func() string {
				if err := share(t.Context()); err != nil {
					t.Fatal(err)
				}
				keys, notes, messages := bob.bundles()
				again := st.send(room, "afterwards")
				return fmt.Sprint(len(keys), len(notes), len(messages) > 0, keys[said.session] != nil, again.session == said.session)
			},
		}
	})
}

// Bob's bundle comes, alice accepts his invitation, and the keys are taken: all of them, once,
// whatever disturbs it, with a restart in the end.
func TestDisturbedTakingOfHistory(t *testing.T) {
	t.Parallel()
	everyDisturbance(t, 20, func(t *testing.T, tr *trouble) scene {
		st := shaken(t, tr)
		p := newPast(t, st)
		silent := p.bob.newMegolm(p.room)
		unread := silent.say("not shared")
		st.sync()
		p.bob.give(st.target(), p.bob.stored(p.room, bundleOf([]any{p.key}, []any{silent.notShared("m.history_not_shared")})))
		p.bob.invites(p.room, st.alice.UserID)
		join := func(ctx context.Context) error {
			if err := st.use(ctx); err != nil {
				return err
			}
			if err := st.syncWith(ctx); err != nil {
				return err
			}
			st.joinElsewhere(p.room)
			return st.dev.NoteMembership(ctx, id.RoomID(p.room), id.UserID(st.alice.UserID), "join")
		}
		return scene{
			work: join,
			outcome: func() string {
				if err := join(t.Context()); err != nil {
					t.Fatal(err)
				}
				st.again()
				st.wantShared(p.event, p.text, p.bob.UserID)
				n, first := st.kept(p.said.ID().String())
				waits, err := st.dev.WaitingHistory(t.Context())
				reader, code := person{t: t, hs: st.hs, rig: st.rig, Session: st.alice, dev: st.dev}, ""
				for _, ev := range reader.history(p.room) {
					if ev.EventID == unread {
						code = ev.Unsigned.Trust.Code
					}
				}
				return fmt.Sprint(n, first, waits, err, code)
			},
		}
	})
}

// Wherever the process ends while history is taken, all of it is here when it is started again.
func TestCrashDuringTakingOfHistory(t *testing.T) {
	t.Parallel()
	everyCrash(t, 3, func(t *testing.T, c *crash, after int) (bool, string) {
		hs := liar.New(t)
		st := stageOn(c.rig(t, hs), hs.Login("alice", "ALICE"))
		p := newPast(t, st)
		p.bob.give(st.target(), p.bob.stored(p.room, bundleOf([]any{p.key}, nil)))
		p.bob.invites(p.room, st.alice.UserID)
		c.arm(after)
		work := func() error {
			if err := st.trySync(); err != nil {
				return err
			}
			st.joinElsewhere(p.room)
			return st.dev.NoteMembership(t.Context(), id.RoomID(p.room), id.UserID(st.alice.UserID), "join")
		}
		err := work()
		if err == nil {
			c.over(t, func() bool { n, _ := st.kept(p.said.ID().String()); return n == 1 })
		}
		st.rig.stop()
		died := c.disarm()
		if err != nil && !died {
			t.Fatal(err)
		}
		st.rig.start()
		st.dev = st.device(st.alice)
		if err := work(); err != nil {
			t.Fatal(err)
		}
		st.wantShared(p.event, p.text, p.bob.UserID)
		n, first := st.kept(p.said.ID().String())
		return died, fmt.Sprint(n, first)
	})
}
