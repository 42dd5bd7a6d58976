package late

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/store"
)

const (
	// holdFor is how long an event is held for its key.
	holdFor = 5 * time.Minute
	// maxHeld bounds the held events of a device. They are never dropped, and anybody in a
	// room can send events that nobody can decrypt. Further ones get their placeholder at
	// once.
	maxHeld = 1000
)

// holding is what is known of held events. It is guarded by the device's lock.
type holding struct {
	known bool
	first time.Time // when the first hold ends; zero: none is held
}

// mayHold reports whether the key of an event may still come.
func (ev *Event) mayHold() bool {
	return ev.Hold && (ev.lacksKey() || errors.Is(ev.Err, roomkeys.ErrOurs)) && !ev.Withheld
}

// hold decides which of the parked events are held; events[i] belongs to parked[i]. An event
// that comes again is not held longer, and one that was shown is not hidden again.
func (l *Events) hold(ctx context.Context, events []*Event, parked []store.PendingEvent) error {
	if !l.holds {
		return nil
	}
	var ids []id.EventID
	for _, ev := range events {
		if ev.mayHold() {
			ids = append(ids, ev.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	held, _, err := l.Env.Store.PendingHeld(ctx, l.Account.Row, l.RowID)
	if err != nil {
		return fmt.Errorf("count held events: %w", err)
	}
	known, err := l.Env.Store.PendingOf(ctx, l.Account.Row, l.RowID, ids)
	if err != nil {
		return fmt.Errorf("look up held events: %w", err)
	}
	now := l.Env.Now()
	for i, ev := range events {
		if !ev.mayHold() {
			continue
		}
		switch old, ok := known[ev.ID]; {
		case ok && now.Before(old.HeldUntil):
			parked[i].HeldUntil, parked[i].ReceivedAt = old.HeldUntil, old.ReceivedAt
		case ok: // its hold is over, or the client has its placeholder
		case held < maxHeld:
			held++
			parked[i].HeldUntil = now.Add(holdFor)
		}
	}
	return nil
}

// updateHolding records when the holds of these events end.
func (l *Events) updateHolding(parked []store.PendingEvent) {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	for i := range parked {
		until := parked[i].HeldUntil
		if !until.IsZero() && (l.holding.first.IsZero() || until.Before(l.holding.first)) {
			l.holding.first = until
		}
	}
}

// FirstHold returns when the first hold ends; zero when no event is held.
func (l *Events) FirstHold(ctx context.Context) (time.Time, error) {
	l.Mu.Lock()
	held := l.holding
	if !held.known { // later holds are recorded by updateHolding
		l.holding = holding{known: true}
	}
	l.Mu.Unlock()
	if held.known {
		return held.first, nil
	}
	_, first, err := l.Env.Store.PendingHeld(ctx, l.Account.Row, l.RowID)
	if err != nil {
		l.Recount()
		return time.Time{}, fmt.Errorf("look up held events: %w", err)
	}
	l.updateHolding([]store.PendingEvent{{HeldUntil: first}})
	l.Mu.Lock()
	defer l.Mu.Unlock()
	return l.holding.first, nil
}

// Recount makes the next FirstHold ask the store, because some holds ended.
func (l *Events) Recount() {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	l.holding = holding{}
}

// Due returns the held events whose hold has ended.
func (l *Events) Due(ctx context.Context) ([]store.PendingEvent, error) {
	first, err := l.FirstHold(ctx)
	now := l.Env.Now()
	if err != nil || first.IsZero() || now.Before(first) {
		return nil, err
	}
	rows, err := l.Env.Store.PendingDue(ctx, l.Account.Row, l.RowID, now, maxReady)
	if err != nil {
		return nil, fmt.Errorf("load held events: %w", err)
	}
	return rows, nil
}

// OpenDue shows the client the events whose hold has ended: the clear event if it can be
// read by now, else a placeholder, which a later sync replaces by the clear event. done are
// the events that this response carries already.
func (l *Events) OpenDue(ctx context.Context, rows, done []store.PendingEvent, next string, late map[id.RoomID][]json.RawMessage) error {
	rows = slices.DeleteFunc(rows, func(row store.PendingEvent) bool {
		return row.Ready || slices.ContainsFunc(done, func(p store.PendingEvent) bool { return p.EventID == row.EventID })
	})
	if len(rows) == 0 {
		return nil
	}
	events, by := l.host.OpenAgain(ctx, rows)
	ch := &store.Changes{}
	for i := range rows {
		again := rows[i]
		l.showDue(&again, &events[i], next, late)
		ch.Pending = append(ch.Pending, again)
	}
	l.Recount()
	return l.park(ctx, ch, by)
}

// showDue adds a held event, or its placeholder, to late. That counts once the client syncs
// from the response that carries it.
func (l *Events) showDue(row *store.PendingEvent, ev *Event, next string, late map[id.RoomID][]json.RawMessage) {
	row.From, row.HeldUntil = "", l.Env.Now()
	if ev.waits() && !ev.Decrypted {
		row.Ready, row.DeliveredAt, row.From, row.PlacedAt = errors.Is(ev.Err, roomkeys.ErrOurs), "", ev.Unknown, next
	} else { // nothing follows
		row.Ready, row.DeliveredAt = true, next
	}
	if ev.Hidden {
		row.HeldUntil, row.PlacedAt = time.Time{}, ""
		return
	}
	late[row.RoomID] = append(late[row.RoomID], ev.Shown)
}
