package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"e2ee-proxy/store/internal/sqlio"
)

var putWarnings = sqlio.ReplaceRows("warnings", sqlio.OfAccount, []string{"id"},
	[]string{"code", "user_id", "room_ids", "message", "since", "dismissed", "resolved"})

const selectWarnings = `SELECT id, code, user_id, room_ids, message, since, dismissed, resolved FROM warnings
	WHERE account = $1 ORDER BY since, id`

func (b *saver) warnings(all []Warning) {
	p := &sqlio.Args{}
	for _, w := range lastByKey(all, func(w *Warning) string { return w.ID }) {
		rooms, err := json.Marshal(w.RoomIDs)
		if err != nil {
			b.fail(fmt.Errorf("warnings: %w", err))
			return
		}
		p.ID(w.ID)
		p.Text(w.Code)
		p.Text(string(w.UserID))
		p.Bytes(rooms)
		p.Bytes([]byte(w.Message))
		p.Time(w.Since)
		p.Flag(w.Dismissed)
		p.Flag(w.Resolved)
	}
	b.listOfAccount("warnings", putWarnings, p)
}

// Warnings reads all warnings of an account, the oldest first.
func (db *DB) Warnings(ctx context.Context, acct *Account) ([]Warning, error) {
	var all []Warning
	err := db.reader.Query(ctx, selectWarnings, []any{acct.ID}, func(r *sql.Rows) error {
		var w Warning
		var rooms, message []byte
		err := r.Scan(sqlio.TextInto(&w.ID), sqlio.TextInto(&w.Code), sqlio.TextInto(&w.UserID), &rooms, &message, sqlio.TimeInto(&w.Since),
			sqlio.FlagInto(&w.Dismissed), sqlio.FlagInto(&w.Resolved))
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
