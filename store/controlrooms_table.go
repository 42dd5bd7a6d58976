package store

import (
	"context"
	"database/sql"
	"fmt"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

// Table control_rooms has, in one row for an account, its control room, see package controlroom
// of the engine.

const (
	// An account without a device has nobody to show a room to: what still works for its last
	// one must not bring the room back.
	putControlRoom = "INSERT INTO control_rooms (account, sealed_room) SELECT id, $2 FROM accounts WHERE id = $1 AND EXISTS (SELECT 1 FROM devices WHERE account = $1) " +
		"ON CONFLICT (account) DO UPDATE SET sealed_room = excluded.sealed_room"
	selectControlRoom = "SELECT sealed_room FROM control_rooms WHERE account = $1"
	dropUnseenRoom    = "DELETE FROM control_rooms WHERE account = $1 AND NOT EXISTS (SELECT 1 FROM devices WHERE account = $1)"
)

// controlRoom replaces the room.
func (b *saver) controlRoom(room secret.Bytes) {
	if room == nil {
		return
	}
	b.ofAccount = true
	b.step("control room", &sqlio.Args{}, func(ctx context.Context, t *sqlio.Tx) error {
		_, err := t.Do(ctx, putControlRoom, b.acct.ID, b.acct.seal(room, "control_rooms", "sealed_room"))
		return err
	})
}

// ControlRoom reads an account's control room; nil when there is none.
func (db *DB) ControlRoom(ctx context.Context, acct *Account) (secret.Bytes, error) {
	var room secret.Bytes
	err := db.reader.Query(ctx, selectControlRoom, []any{acct.ID}, func(r *sql.Rows) error {
		var sealed sql.RawBytes
		err := r.Scan(&sealed)
		if err == nil {
			room, err = acct.open(sealed, "control_rooms", "sealed_room")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the control room: %w", err)
	}
	return room, nil
}
