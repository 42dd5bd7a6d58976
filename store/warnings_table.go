package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
)

var putWarnings = replaceRows("warnings", ofAccount, []string{"id"},
	[]string{"code", "user_id", "room_ids", "message", "since", "dismissed", "resolved"})

const selectWarnings = `SELECT id, code, user_id, room_ids, message, since, dismissed, resolved FROM warnings
	WHERE account = $1 ORDER BY since, id`

func (b *saver) warnings(all []Warning) {
	p := &args{}
	for _, w := range lastByKey(all, func(w *Warning) string { return w.ID }) {
		rooms, err := json.Marshal(w.RoomIDs)
		if err != nil {
			b.fail(fmt.Errorf("warnings: %w", err))
			return
		}
		p.id(w.ID)
		p.text(w.Code)
		p.text(string(w.UserID))
		p.bytes(rooms)
		p.bytes([]byte(w.Message))
		p.time(w.Since)
		p.flag(w.Dismissed)
		p.flag(w.Resolved)
	}
	b.listOfAccount("warnings", putWarnings, p)
}

// Warnings reads all warnings of an account, the oldest first.
func (db *DB) Warnings(ctx context.Context, acct *Account) ([]Warning, error) {
	var all []Warning
	err := db.reader.query(ctx, selectWarnings, []any{acct.ID}, func(r *sql.Rows) error {
		var w Warning
		var rooms, message []byte
		err := r.Scan(text(&w.ID), text(&w.Code), text(&w.UserID), &rooms, &message, timeColumn{&w.Since},
			flagColumn{&w.Dismissed}, flagColumn{&w.Resolved})
		if err != nil {
			return err
		}
		w.Message = string(message)
		all = append(all, w)
		return json.Unmarshal(rooms, &all[len(all)-1].RoomIDs)
	})
	if err != nil {
		return nil, fmt.Errorf("read warnings: %w", err)
	}
	return all, nil
}
