package store

import (
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

// An event of which the client was shown nothing is not forgotten, however old it is and
// however many there are, until it was shown something.
func TestHeldEventsAreNotForgotten(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		ctx := t.Context()
		held := PendingEvent{SessionRef: ref("!r", "s"), EventID: "$held", Event: []byte(`{"a":1}`), ReceivedAt: at(1), HeldUntil: at(5)}
		shown := PendingEvent{SessionRef: ref("!r", "s"), EventID: "$shown", Event: []byte(`{}`), ReceivedAt: at(1)}
		later := PendingEvent{SessionRef: ref("!r", "s"), EventID: "$later", Event: []byte(`{}`), ReceivedAt: at(1), HeldUntil: at(9)}
		save(t, db, acct, dev.ID, &Changes{Pending: []PendingEvent{held, shown, later}})
		due := func(now int) []PendingEvent {
			t.Helper()
			return must[[]PendingEvent](t)(db.PendingDue(ctx, acct, dev.ID, at(now), 10))
		}
		same(t, "due too early", len(due(4)), 0)
		same(t, "due", due(5), []PendingEvent{held})
		same(t, "all due", due(9), []PendingEvent{held, later})
		n, first, err := db.PendingHeld(ctx, acct, dev.ID)
		if err != nil || n != 2 || !first.Equal(at(5)) {
			t.Errorf("%d are held, the first until %v, %v", n, first, err)
		}
		same(t, "forgotten by number", must[int64](t)(db.TrimPending(ctx, acct, dev.ID, 1)), int64(1))
		same(t, "forgotten by age", must[int64](t)(db.PrunePending(ctx, at(8))), int64(0))

		save(t, db, acct, dev.ID, &Changes{PlacePending: []id.EventID{"$held"}, MarkDelivered: "s7"})
		held.PlacedAt = "s7"
		same(t, "placed", must[map[id.EventID]PendingEvent](t)(db.PendingOf(ctx, acct, dev.ID, []id.EventID{"$held", "$none"})),
			map[id.EventID]PendingEvent{"$held": held})
		save(t, db, acct, dev.ID, &Changes{ShownPending: []id.EventID{"$held"}, ReadyPending: []SessionRef{ref("!r", "s")}})
		held.HeldUntil, held.PlacedAt, held.Ready = time.Time{}, "", true
		same(t, "shown", must[map[id.EventID]PendingEvent](t)(db.PendingOf(ctx, acct, dev.ID, []id.EventID{"$held"})),
			map[id.EventID]PendingEvent{"$held": held})
		same(t, "forgotten by age", must[int64](t)(db.PrunePending(ctx, at(8))), int64(1))
	})
}

// Keys are asked for those of the newest events first: what a client read of a long history
// does not push them out.
func TestSessionsOfTheNewestEventsComeFirst(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		var pending []PendingEvent
		for i, session := range []string{"a", "c", "b", "d", "a"} {
			pending = append(pending, PendingEvent{
				SessionRef: ref("!r", session), EventID: id.EventID(fmt.Sprint("$", i)), Event: []byte(`{}`), ReceivedAt: at(i + 1), Ready: session == "d",
			})
		}
		save(t, db, acct, dev.ID, &Changes{Pending: pending})
		got := must[[]SessionRef](t)(db.PendingSessions(t.Context(), acct, dev.ID, 2))
		same(t, "sessions", got, []SessionRef{ref("!r", "a"), ref("!r", "b")})
	})
}
