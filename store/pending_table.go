package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

const pendingColumns = "event_id, room_id, session_id, from_user, event, received_at, ready, delivered_at, held_until, placed_at"

var (
	putPending = sqlio.ReplaceRows("pending_events", sqlio.OfDevice, []string{"event_id"},
		[]string{"room_id", "session_id", "from_user", "event", "received_at", "ready", "delivered_at", "held_until", "placed_at"})
	dropPending = sqlio.WhereIn("DELETE FROM pending_events", sqlio.OfDevice, "event_id", "")
	makeReady   = sqlio.WherePair("UPDATE pending_events SET ready = 1", sqlio.OfDevice, "room_id, session_id")
	releaseFrom = sqlio.WhereIn("UPDATE pending_events SET ready = 1", sqlio.OfAccount, "from_user", "")
	// The third parameter is the position.
	deliverPending = &sqlio.ListStatement{
		Head: "UPDATE pending_events SET delivered_at = $3 WHERE account = $1 AND device = $2 AND event_id IN (",
		Item: "?", Tail: ")", Fixed: 3, Width: 1, Pad: true,
	}
	placePending = &sqlio.ListStatement{
		Head: "UPDATE pending_events SET placed_at = $3 WHERE account = $1 AND device = $2 AND event_id IN (",
		Item: "?", Tail: ")", Fixed: 3, Width: 1, Pad: true,
	}
	showPending = sqlio.WhereIn("UPDATE pending_events SET held_until = 0, placed_at = ''", sqlio.OfDevice, "event_id", "")
	findPending = sqlio.WhereIn("SELECT "+pendingColumns+" FROM pending_events", sqlio.OfDevice, "event_id", "")
)

const (
	selectReady = "SELECT " + pendingColumns + ` FROM pending_events
		WHERE account = $1 AND device = $2 AND ready = 1 ORDER BY received_at, event_id LIMIT $3`
	selectDelivered = "SELECT " + pendingColumns + ` FROM pending_events
		WHERE account = $1 AND device = $2 AND ready = 1 AND delivered_at <> '' ORDER BY received_at, event_id LIMIT $3`
	selectDue = "SELECT " + pendingColumns + ` FROM pending_events
		WHERE account = $1 AND device = $2 AND held_until > 0 AND held_until <= $3 ORDER BY held_until, event_id LIMIT $4`
	selectHeld = `SELECT COUNT(*), COALESCE(MIN(held_until), 0) FROM pending_events
		WHERE account = $1 AND device = $2 AND held_until > 0`
	selectWaiting = `SELECT room_id, session_id FROM pending_events
		WHERE account = $1 AND device = $2 AND ready = 0 AND from_user = ''
		GROUP BY room_id, session_id ORDER BY MAX(received_at) DESC, room_id, session_id LIMIT $3`
	// For all accounts; only if meta has another hash of the rules.
	releaseHeldBack = `UPDATE pending_events SET ready = 1 WHERE from_user <> '' AND ready = 0
		AND EXISTS (SELECT 1 FROM meta WHERE receive_rules <> $1)`
	// For all accounts of a replica: while rules are replaced, each has its own.
	releaseHeldBackHere = `UPDATE pending_events SET ready = 1 WHERE from_user <> '' AND ready = 0
		AND account IN (SELECT id FROM accounts WHERE owner = $1)`
	releaseWithheld = "UPDATE pending_events SET ready = 1 WHERE account = $1 AND from_user <> '' AND ready = 0"
	setReceiveRules = "UPDATE meta SET receive_rules = $1"
	countPending    = "SELECT COUNT(*) FROM pending_events WHERE account = $1 AND device = $2"
	// Events that the client has not seen in any form are kept.
	trimPending = `DELETE FROM pending_events WHERE account = $1 AND device = $2 AND event_id IN
		(SELECT event_id FROM pending_events WHERE account = $1 AND device = $2 AND held_until = 0 ORDER BY received_at LIMIT $3)`
	prunePending = `DELETE FROM pending_events WHERE (account, device, event_id) IN
		(SELECT account, device, event_id FROM pending_events WHERE received_at < $1 AND held_until = 0 LIMIT 1000)`
)

func (b *saver) pending(all []PendingEvent) {
	p := &sqlio.Args{}
	for _, e := range lastByKey(all, func(e *PendingEvent) id.EventID { return e.EventID }) {
		p.ID(string(e.EventID))
		p.ID(string(e.RoomID))
		p.ID(string(e.SessionID))
		p.ID(string(e.From))
		p.Bytes(e.Event)
		p.Time(e.ReceivedAt)
		p.Flag(e.Ready)
		p.Text(e.DeliveredAt)
		p.Time(e.HeldUntil)
		p.Text(e.PlacedAt)
	}
	b.listOfDevice("pending events", putPending, p)
}

func (b *saver) deletePending(events []id.EventID) {
	b.listOfDevice("delete pending events", dropPending, idArgs(events))
}

func (b *saver) readyPending(sessions []SessionRef) {
	b.listOfDevice("mark ready events", makeReady, refArgs(sessions))
}

func (b *saver) readyPendingFrom(users []id.UserID) {
	b.listOfAccount("release held back events", releaseFrom, idArgs(users))
}

func (b *saver) readyWithheld(release bool) {
	if !release {
		return
	}
	b.ofAccount = true
	b.step("release all held back events", &sqlio.Args{}, func(ctx context.Context, t *sqlio.Tx) error {
		return t.Run(ctx, releaseWithheld, b.acct.ID)
	})
}

func (b *saver) markPending(events []id.EventID, position string) {
	if len(events) == 0 {
		return
	}
	b.ofDevice = true
	b.list("mark delivered events", deliverPending, []any{b.acct.ID, b.dev, sqlio.EncodeText(position)}, idArgs(events))
}

func (b *saver) placePending(events []id.EventID, position string) {
	if len(events) == 0 {
		return
	}
	b.ofDevice = true
	b.list("mark events with a placeholder", placePending, []any{b.acct.ID, b.dev, sqlio.EncodeText(position)}, idArgs(events))
}

func (b *saver) shownPending(events []id.EventID) {
	b.listOfDevice("mark shown events", showPending, idArgs(events))
}

// Pending reads up to limit events that are ready, whether or not a response has carried
// them again, the oldest first.
func (db *DB) Pending(ctx context.Context, acct *Account, device int64, limit int) ([]PendingEvent, error) {
	return db.readPending(ctx, selectReady, acct.ID, device, int64(limit))
}

// PendingDelivered is like Pending, for those that a response has carried again, which the
// client may or may not have received.
func (db *DB) PendingDelivered(ctx context.Context, acct *Account, device int64, limit int) ([]PendingEvent, error) {
	return db.readPending(ctx, selectDelivered, acct.ID, device, int64(limit))
}

// PendingDue reads up to limit events whose HeldUntil has passed, the oldest first.
func (db *DB) PendingDue(ctx context.Context, acct *Account, device int64, now time.Time, limit int) ([]PendingEvent, error) {
	return db.readPending(ctx, selectDue, acct.ID, device, sqlio.Micros(now), int64(limit))
}

// PendingHeld returns how many events are hidden from a device's client altogether, and
// until when the first one is.
func (db *DB) PendingHeld(ctx context.Context, acct *Account, device int64) (held int, first time.Time, err error) {
	err = db.reader.Query(ctx, selectHeld, []any{acct.ID, device}, func(r *sql.Rows) error {
		return r.Scan(&held, sqlio.TimeInto(&first))
	})
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("count held events: %w", err)
	}
	return held, first, nil
}

// PendingOf reads those of the events that are pending.
func (db *DB) PendingOf(ctx context.Context, acct *Account, device int64, events []id.EventID) (map[id.EventID]PendingEvent, error) {
	out := make(map[id.EventID]PendingEvent)
	err := db.list(ctx, findPending, []any{acct.ID, device}, idArgs(unique(events)), func(r *sql.Rows) error {
		e, err := scanPending(r)
		out[e.EventID] = e
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read pending events: %w", err)
	}
	return out, nil
}

func (db *DB) readPending(ctx context.Context, query string, params ...any) ([]PendingEvent, error) {
	var all []PendingEvent
	err := db.reader.Query(ctx, query, params, func(r *sql.Rows) error {
		e, err := scanPending(r)
		all = append(all, e)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read pending events: %w", err)
	}
	return all, nil
}

func scanPending(r *sql.Rows) (PendingEvent, error) {
	var e PendingEvent
	err := r.Scan(sqlio.TextInto(&e.EventID), sqlio.TextInto(&e.RoomID), sqlio.TextInto(&e.SessionID), sqlio.TextInto(&e.From), sqlio.JSONInto(&e.Event),
		sqlio.TimeInto(&e.ReceivedAt), sqlio.FlagInto(&e.Ready), sqlio.TextInto(&e.DeliveredAt), sqlio.TimeInto(&e.HeldUntil), sqlio.TextInto(&e.PlacedAt))
	return e, err
}

// HeldBackUnder sets the rules under which events are withheld from now on. If they have
// changed, all withheld events, of every account, are ready to be judged again. In a cluster
// that is done in any case, for the accounts of this replica; those that it claims later are
// judged again when it claims them (Changes.ReadyWithheld).
func (db *DB) HeldBackUnder(ctx context.Context, rules string) error {
	if db.cluster != nil {
		err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
			return t.Run(ctx, releaseHeldBackHere, db.lease.token().holder)
		})
		if err != nil {
			return fmt.Errorf("release events that were held back: %w", err)
		}
		return nil
	}
	sum := db.Hash("receive rules", []byte(rules)) // the rules may name users
	err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		now := hex.EncodeToString(sum[:])
		if err := t.Run(ctx, releaseHeldBack, now); err != nil {
			return err
		}
		return t.Run(ctx, setReceiveRules, now)
	})
	if err != nil {
		return fmt.Errorf("release events that were held back: %w", err)
	}
	return nil
}

// PendingSessions returns up to limit sessions for whose keys events of a device wait, those of
// the newest events first.
func (db *DB) PendingSessions(ctx context.Context, acct *Account, device int64, limit int) ([]SessionRef, error) {
	var all []SessionRef
	err := db.reader.Query(ctx, selectWaiting, []any{acct.ID, device, int64(limit)}, func(r *sql.Rows) error {
		var s SessionRef
		err := r.Scan(sqlio.TextInto(&s.RoomID), sqlio.TextInto(&s.SessionID))
		all = append(all, s)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read sessions that events wait for: %w", err)
	}
	return all, nil
}

// PendingCount returns how many events of a device wait for a key or for delivery.
func (db *DB) PendingCount(ctx context.Context, acct *Account, device int64) (int, error) {
	var n int
	err := db.reader.Query(ctx, countPending, []any{acct.ID, device}, func(r *sql.Rows) error { return r.Scan(&n) })
	if err != nil {
		return 0, fmt.Errorf("count pending events: %w", err)
	}
	return n, nil
}

// TrimPending deletes the oldest events of a device beyond the number to keep, and returns
// how many: anybody can send events that nobody can read.
func (db *DB) TrimPending(ctx context.Context, acct *Account, device int64, keep int) (int64, error) {
	n, err := db.PendingCount(ctx, acct, device)
	if err != nil || n <= keep {
		return 0, err
	}
	var gone int64
	err = db.write(ctx, acct, func(ctx context.Context, t *sqlio.Tx) error {
		var err error
		gone, err = t.Do(ctx, trimPending, acct.ID, device, int64(n-keep))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("trim pending events: %w", err)
	}
	return gone, nil
}

// PrunePending deletes events received before a time and returns how many.
func (db *DB) PrunePending(ctx context.Context, before time.Time) (int64, error) {
	return db.prune(ctx, "pending events", prunePending, sqlio.Micros(before))
}
