package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"e2ee-proxy/store/internal/sqlio"
)

// Table lease has one row; see lease.go. On PostgreSQL every time in it is that of the
// database's clock at the moment of the statement, in microseconds. SQLite's rows never
// expire: there a lock on a file tells whether the holder is alive.

// pgNow is the time of the statement, not of the transaction's begin, which may be long
// before a lock was granted.
const pgNow = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

const (
	liteReadLease = "SELECT epoch, holder, process, beat, 0 FROM lease"
	pgReadLease   = "SELECT epoch, holder, process, beat, expires_at - " + pgNow + " FROM lease"

	// Nobody else tries at the same time, because this process has the lock on the file.
	liteTakeLease = `INSERT INTO lease (one, epoch, holder, process, expires_at, beat) VALUES (1, 1, $1, $2, 0, $3)
		ON CONFLICT (one) DO UPDATE SET epoch = lease.epoch + 1, holder = excluded.holder, process = excluded.process,
			beat = max(lease.beat, excluded.beat) + 1
		RETURNING epoch, beat`
	// What is compared and set is computed when the row is locked: excluded would have the
	// time from before the wait for it. An end that is too far in the future was set by
	// another clock, that of a server which this one has replaced.
	pgTakeLease = `INSERT INTO lease (one, epoch, holder, process, expires_at, beat) VALUES (1, 1, $1, $2, ` + pgNow + ` + $4, $3)
		ON CONFLICT (one) DO UPDATE SET epoch = lease.epoch + 1, holder = excluded.holder, process = excluded.process,
			expires_at = ` + pgNow + ` + $4, beat = GREATEST(lease.beat, excluded.beat) + 1
			WHERE NOT lease.expires_at BETWEEN ` + pgNow + ` AND ` + pgNow + ` + 2 * $4
		RETURNING epoch, beat`
	pgRenewLease = "UPDATE lease SET expires_at = " + pgNow + ` + $5, beat = beat + 1
		WHERE one = 1 AND epoch = $1 AND holder = $2 AND beat BETWEEN $3 AND $4 RETURNING beat, ` + pgSynced
	pgReleaseLease = "UPDATE lease SET expires_at = 0, beat = beat + 1 WHERE one = 1 AND epoch = $1 AND holder = $2 RETURNING beat, " + pgSynced

	// liteHoldsLease finds a row while the lease is ours; for PostgreSQL see fence.go.
	liteHoldsLease = "SELECT 1 FROM lease WHERE one = 1 AND epoch = $1 AND holder = $2"
	pgLockLease    = "LOCK TABLE lease IN EXCLUSIVE MODE" // does not keep pg_dump out

	// pgNoLease ends the lease of one process, and leaves its beat to be counted by a cluster. An
	// empty holder is nobody.
	pgNoLease = `INSERT INTO lease (one, epoch, holder, process, expires_at, beat) VALUES (1, 1, '', '', 0, $1)
		ON CONFLICT (one) DO UPDATE SET epoch = lease.epoch + 1, holder = '', process = '', expires_at = 0,
			beat = GREATEST(lease.beat, excluded.beat) + 1
			WHERE lease.holder = '' OR NOT lease.expires_at BETWEEN ` + pgNow + ` AND ` + pgNow + ` + $2
		RETURNING epoch, beat`
)

// leaseRow is the row of the table.
type leaseRow struct {
	token
	process string
	beat    int64
	left    time.Duration // until it expires
}

func (db *DB) readLease(ctx context.Context, query querier) (row leaseRow, found bool, err error) {
	text := liteReadLease
	if db.dialect.SharedPool {
		text = pgReadLease
	}
	err = query(ctx, text, nil, func(r *sql.Rows) error {
		found = true
		var left int64
		err := r.Scan(&row.epoch, &row.holder, &row.process, &row.beat, &left)
		row.left = time.Duration(left) * time.Microsecond
		return err
	})
	if err != nil {
		return leaseRow{}, false, fmt.Errorf("read lease: %w", err)
	}
	return row, found, nil
}

// takeLease makes this process the one that may write. The beat continues from that of the
// table or the given one, whichever is later. held reports whether somebody else has the
// lease.
func (db *DB) takeLease(ctx context.Context, t *sqlio.Tx, beat int64) (row leaseRow, held bool, err error) {
	row = leaseRow{token: token{holder: randomText()}, process: thisProcess()}
	text, params := liteTakeLease, []any{row.holder, row.process, beat}
	if db.dialect.SharedPool {
		text, params = pgTakeLease, append(params, db.lease.lasts.Microseconds())
	}
	held = true
	err = t.Rows(ctx, text, params, func(r *sql.Rows) error {
		held = false
		return r.Scan(&row.epoch, &row.beat)
	})
	if err != nil {
		return leaseRow{}, false, fmt.Errorf("take lease: %w", err)
	}
	return row, held, nil
}

// renewLease extends the lease from now. The beat in the table must be the one that this
// process wrote last, or a later one of a renewal that may have been made.
func (l *lease) renewLease(ctx context.Context, db *sql.DB, from, to int64) (beat int64, held bool, err error) {
	t := l.token()
	err = db.QueryRowContext(ctx, pgRenewLease, t.epoch, t.holder, from, to, l.lasts.Microseconds()).Scan(&beat, new(sql.NullString))
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("renew lease: %w", err)
	}
	return beat, true, nil
}

// releaseLease releases the lease, if it is still ours.
func (l *lease) releaseLease(ctx context.Context, db *sql.DB) (beat int64, held bool, err error) {
	t := l.token()
	err = db.QueryRowContext(ctx, pgReleaseLease, t.epoch, t.holder).Scan(&beat, new(sql.NullString))
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("release lease: %w", err)
	}
	return beat, true, nil
}
