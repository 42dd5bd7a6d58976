package store

import (
	"context"
	"database/sql"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

const (
	selectForeign = "SELECT id, user_id, master_key_id, sealed_key FROM accounts WHERE master_key_id <> $1 ORDER BY id LIMIT 200"
	selectInUse   = "SELECT master_key_id FROM meta UNION SELECT master_key_id FROM accounts ORDER BY 1"
	rewrapRoot    = "UPDATE meta SET master_key_id = $1, sealed_root = $2 WHERE master_key_id <> $1"
)

// rewrapAccounts changes only rows that still have the key they were read with.
var rewrapAccounts = &sqlio.ListStatement{
	Head: "WITH wrapped (master_key_id, id, sealed_key, former) AS (VALUES ",
	Item: "(CAST($1 AS TEXT), CAST(? AS {{int}}), CAST(? AS {{blob}}), CAST(? AS TEXT))",
	Tail: `) UPDATE accounts SET master_key_id = wrapped.master_key_id, sealed_key = wrapped.sealed_key FROM wrapped
		WHERE accounts.id = wrapped.id AND accounts.master_key_id = wrapped.former`,
	Fixed: 1, Width: 3, Pad: true,
}

// RotateMasterKey wraps everything that is still wrapped with an old master key with the
// current one, and returns how many account keys that was. Reading and writing go on
// meanwhile. It works in batches; interrupted, it leaves some keys with the old and some
// with the new, which both open, and the next call does the rest. Account keys themselves
// do not change, so nothing else has to be sealed again.
//
// Processes that only read beside this one need both keys before it rotates. An old key can
// be dropped when [DB.MasterKeysInUse] no longer returns it.
func (db *DB) RotateMasterKey(ctx context.Context) (int, error) {
	if err := db.checkRotation(ctx, db.reader.Query); err != nil {
		return 0, fmt.Errorf("rotate master key: %w", err)
	}
	total := 0
	for {
		n, err := db.rotateSome(ctx)
		total += n
		if err != nil {
			return total, fmt.Errorf("rotate master key: %w", err)
		}
		if n == 0 {
			break
		}
	}
	sealed := db.main.key.Seal(db.root.Reveal(), metaPlace(db.id))
	err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		return t.Run(ctx, rewrapRoot, db.main.ID(), sealed)
	})
	if err != nil {
		return total, fmt.Errorf("rotate master key: root secret: %w", err)
	}
	return total, nil
}

func (db *DB) rotateSome(ctx context.Context) (int, error) {
	p := &sqlio.Args{}
	err := db.reader.Query(ctx, selectForeign, []any{db.main.ID()}, func(r *sql.Rows) error {
		var row int64
		var user id.UserID
		var former string
		var sealed []byte
		if err := r.Scan(&row, sqlio.TextInto(&user), &former, &sealed); err != nil {
			return err
		}
		raw, err := db.openAccountKey(user, former, sealed)
		if err != nil {
			return err
		}
		defer raw.Wipe()
		p.Num(row)
		p.Bytes(db.main.key.Seal(raw, keyPlace(db.id, user)))
		p.Text(former)
		return nil
	})
	if err != nil || len(p.Vals) == 0 {
		return 0, err
	}
	err = db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		return t.RunList(ctx, rewrapAccounts, []any{db.main.ID()}, p.Vals)
	})
	return len(p.Vals) / rewrapAccounts.Width, err
}

// MasterKeysInUse returns the IDs of the master keys without which the database could not
// be read.
func (db *DB) MasterKeysInUse(ctx context.Context) ([]string, error) {
	var all []string
	err := db.reader.Query(ctx, selectInUse, nil, func(r *sql.Rows) error {
		var keyID string
		err := r.Scan(&keyID)
		all = append(all, keyID)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list master keys: %w", err)
	}
	return all, nil
}
