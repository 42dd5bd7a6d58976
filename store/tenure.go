package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

// selectMisplaced finds what is ours, and would be another's if nobody had it; see takeOrphans.
const selectMisplaced = `SELECT user_id FROM accounts a WHERE a.owner = $1
	AND $1 <> (SELECT name FROM replicas WHERE ` + pgAlive + ` AND draining = 0 ORDER BY hashtextextended(name, a.id) DESC, name LIMIT 1)
	LIMIT $2`

// Clustered reports whether this process is one of several, see [Cluster].
func (db *DB) Clustered() bool { return db.cluster != nil }

// Epoch counts the changes of owner of the account; 0 without a cluster.
func (a *Account) Epoch() int64 { return a.epoch }

// Succeeds reports whether an account of the same user was made, or was claimed, after another.
func (a *Account) Succeeds(b *Account) bool {
	return a.ID > b.ID || a.ID == b.ID && a.epoch > b.epoch
}

// MayAct returns nil as long as no other replica can have taken this one's accounts, by the
// clock of this machine: before anything is done that no transaction protects. It costs no
// query. Without a cluster it is always nil.
func (db *DB) MayAct() error {
	if db.cluster == nil {
		return nil
	}
	l := db.lease
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lostReason != nil {
		return l.lostReason
	}
	if time.Since(l.renewed) > l.lasts {
		return fmt.Errorf("%w: this replica's time has run out", ErrNotOwner)
	}
	return nil
}

// Owned returns the accounts that are ours, in no order; none without a cluster.
func (db *DB) Owned() []*Account {
	if db.cluster == nil {
		return nil
	}
	return db.owned.all()
}

// Misplaced returns the users of up to most of our accounts that another replica would claim if
// they were nobody's.
func (db *DB) Misplaced(ctx context.Context, most int) ([]id.UserID, error) {
	if db.cluster == nil {
		return nil, nil
	}
	var all []id.UserID
	err := db.reader.Query(ctx, selectMisplaced, []any{db.lease.token().holder, int64(most)}, func(r *sql.Rows) error {
		var user id.UserID
		err := r.Scan(sqlio.TextInto(&user))
		all = append(all, user)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list misplaced accounts: %w", err)
	}
	return all, nil
}
