package store

import (
	"context"
	"database/sql"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

// Rows are only ever added. The statement has no key of its own to conflict with.
var putUserChanges = &sqlio.ListStatement{
	Head: "INSERT INTO user_changes (account, user_id, at, kind, previous, master) VALUES ",
	Item: "($1, ?, ?, ?, ?, ?)", Fixed: 1, Width: 5,
}

const selectUserChanges = `SELECT seq, user_id, at, kind, previous, master FROM user_changes
	WHERE account = $1 AND user_id = $2 ORDER BY seq`

func (b *saver) userChanges(all []UserChange) {
	p := &sqlio.Args{}
	for _, c := range all {
		p.ID(string(c.UserID))
		p.Time(c.At)
		p.Text(c.Kind)
		p.Text(c.Previous)
		p.Text(c.Master)
	}
	b.listOfAccount("history of users", putUserChanges, p)
}

// UserChanges reads the history of a user's pin, the oldest first.
func (db *DB) UserChanges(ctx context.Context, acct *Account, user id.UserID) ([]UserChange, error) {
	var all []UserChange
	err := db.reader.Query(ctx, selectUserChanges, []any{acct.ID, sqlio.EncodeText(string(user))}, func(r *sql.Rows) error {
		var c UserChange
		err := r.Scan(&c.Seq, sqlio.TextInto(&c.UserID), sqlio.TimeInto(&c.At), sqlio.TextInto(&c.Kind), sqlio.TextInto(&c.Previous), sqlio.TextInto(&c.Master))
		all = append(all, c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read history of user: %w", err)
	}
	return all, nil
}
