package store

import (
	"context"
	"database/sql"
	"fmt"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

// Table notifications has, in one row for an account, a list of events that notify, see package
// unread of the engine.

const (
	// An account without a device has nobody to notify: what still works for its last one must
	// not bring the list back.
	putNotifications = "INSERT INTO notifications (account, sealed_events) SELECT id, $2 FROM accounts WHERE id = $1 AND EXISTS (SELECT 1 FROM devices WHERE account = $1) " +
		"ON CONFLICT (account) DO UPDATE SET sealed_events = excluded.sealed_events"
	dropNotifications   = "DELETE FROM notifications WHERE account = $1"
	selectNotifications = "SELECT sealed_events FROM notifications WHERE account = $1"
	dropUnnotified      = dropNotifications + " AND NOT EXISTS (SELECT 1 FROM devices WHERE account = $1)"
)

// notifications replaces the list; an empty one deletes the row.
func (b *saver) notifications(events *secret.Bytes) {
	if events == nil {
		return
	}
	b.ofAccount = true
	statement, args := dropNotifications, []any{b.acct.ID}
	if len(*events) > 0 {
		statement, args = putNotifications, append(args, b.acct.seal(*events, "notifications", "sealed_events"))
	}
	b.step("notifications", &sqlio.Args{}, func(ctx context.Context, t *sqlio.Tx) error {
		return t.Run(ctx, statement, args...)
	})
}

// Notifications reads an account's list; nil when there is none.
func (db *DB) Notifications(ctx context.Context, acct *Account) (secret.Bytes, error) {
	var events secret.Bytes
	err := db.reader.Query(ctx, selectNotifications, []any{acct.ID}, func(r *sql.Rows) error {
		var sealed sql.RawBytes
		err := r.Scan(&sealed)
		if err == nil {
			events, err = acct.open(sealed, "notifications", "sealed_events")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read notifications: %w", err)
	}
	return events, nil
}
