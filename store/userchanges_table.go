package store

import (
	"context"
	"database/sql"
	"fmt"

	"maunium.net/go/mautrix/id"
)

// Rows are only ever added. The statement has no key of its own to conflict with.
var putUserChanges = &listStatement{
	head: "INSERT INTO user_changes (account, user_id, at, kind, previous, master) VALUES ",
	item: "($1, ?, ?, ?, ?, ?)", fixed: 1, width: 5,
}

const selectUserChanges = `SELECT seq, user_id, at, kind, previous, master FROM user_changes
	WHERE account = $1 AND user_id = $2 ORDER BY seq`

func (b *saver) userChanges(all []UserChange) {
	p := &args{}
	for _, c := range all {
		p.id(string(c.UserID))
		p.time(c.At)
		p.text(c.Kind)
		p.text(c.Previous)
		p.text(c.Master)
	}
	b.listOfAccount("history of users", putUserChanges, p)
}

// UserChanges reads the history of a user's pin, the oldest first.
func (db *DB) UserChanges(ctx context.Context, acct *Account, user id.UserID) ([]UserChange, error) {
	var all []UserChange
	err := db.reader.query(ctx, selectUserChanges, []any{acct.ID, encodeText(string(user))}, func(r *sql.Rows) error {
		var c UserChange
		err := r.Scan(&c.Seq, text(&c.UserID), timeColumn{&c.At}, text(&c.Kind), text(&c.Previous), text(&c.Master))
		all = append(all, c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read history of user: %w", err)
	}
	return all, nil
}
