package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"e2ee-proxy/store/internal/sqlio"
)

// Table replicas has a row for each process of a cluster; see cluster.go. Times are those of
// the database's clock, in microseconds. A row that ends too far in the future was written by
// another clock, that of a server which this one has replaced, or from before it was set.

const (
	pgAlive = "expires_at BETWEEN " + pgNow + " AND " + pgNow + " + 2 * lasts"
	// pgLiveNames are the names of the live replicas. Nobody's accounts have none of them.
	pgLiveNames = "ARRAY(SELECT name FROM replicas WHERE " + pgAlive + ")"

	replicaColumns = "r.name, r.process, r.advertise, r.draining, r.expires_at - " + pgNow

	pgLockReplicas = "LOCK TABLE replicas IN EXCLUSIVE MODE" // does not keep pg_dump out
	dropReplicas   = "DELETE FROM replicas"
	pgJoin         = `INSERT INTO replicas (name, process, advertise, schema_version, master_keys, draining, lasts, expires_at, beat)
		VALUES ($1, $2, $3, $4, $5, 0, $6, ` + pgNow + ` + $6, 1)`  // the last is firstBeat
	// pgDropDead removes the rows of replicas that died long ago. If one goes on after that, it
	// finds that its row is gone and ends.
	pgDropDead = "DELETE FROM replicas WHERE NOT expires_at BETWEEN " + pgNow + " - 3600000000 AND " + pgNow + " + 3600000000"

	// pgRenewReplica counts in the table of the lease for all replicas together, and in the row
	// for the one.
	pgRenewReplica = `WITH counted AS (UPDATE lease SET beat = beat + 1 WHERE one = 1 AND beat >= $5 RETURNING beat)
		UPDATE replicas SET expires_at = ` + pgNow + ` + $4, beat = replicas.beat + 1
		FROM counted, (SELECT expires_at AS ended FROM replicas WHERE name = $1) AS former
		WHERE replicas.name = $1 AND replicas.beat BETWEEN $2 AND $3
		RETURNING replicas.beat, counted.beat, former.ended < ` + pgNow + ", " + pgSynced
	dropReplica   = "DELETE FROM replicas WHERE name = $1"
	drainReplica  = "UPDATE replicas SET draining = 1 WHERE name = $1"
	selectReplica = "SELECT beat FROM replicas WHERE name = $1"

	pgSelectOthers = "SELECT r.process, r.advertise, r.schema_version, r.master_keys, r.expires_at - " + pgNow + " FROM replicas r WHERE " + pgAlive
	pgListReplicas = "SELECT " + replicaColumns + `, COUNT(a.id) FROM replicas r LEFT JOIN accounts a ON a.owner = r.name
		WHERE ` + pgAlive + " GROUP BY r.name ORDER BY r.name"
)

// replicaRow is what an opening process wants to know of a live replica.
type replicaRow struct {
	process, advertise string
	version            int64
	keys               []string // the first is the current one
	left               time.Duration
}

// liveReplicas returns the live replicas.
func liveReplicas(ctx context.Context, query querier) ([]replicaRow, error) {
	var all []replicaRow
	err := query(ctx, pgSelectOthers, nil, func(r *sql.Rows) error {
		var row replicaRow
		var keys string
		var left int64
		err := r.Scan(&row.process, &row.advertise, &row.version, &keys, &left)
		row.keys, row.left = strings.Fields(keys), time.Duration(left)*time.Microsecond
		all = append(all, row)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list replicas: %w", err)
	}
	return all, nil
}

// join adds our row.
func (db *DB) join(ctx context.Context, t *sqlio.Tx, name string) error {
	if _, err := t.Do(ctx, pgDropDead); err != nil {
		return fmt.Errorf("drop dead replicas: %w", err)
	}
	keys := []string{db.main.ID()}
	for id := range db.keys {
		if id != db.main.ID() {
			keys = append(keys, id)
		}
	}
	_, err := t.Do(ctx, pgJoin, name, thisProcess(), db.cluster.Advertise, db.latest(), strings.Join(keys, " "), db.lease.lasts.Microseconds())
	if err != nil {
		return fmt.Errorf("join the cluster: %w", err)
	}
	return nil
}

// beats are the counts of a renewal.
type beats struct {
	own, all int64
	// late reports that others may have taken us for dead.
	late bool
}

// renewReplica extends the replica's time. Like renewLease it wants the beat that this
// process wrote last.
func (l *lease) renewReplica(ctx context.Context, db *sql.DB, from, to, all int64) (b beats, held bool, err error) {
	err = db.QueryRowContext(ctx, pgRenewReplica, l.token().holder, from, to, l.lasts.Microseconds(), all).Scan(&b.own, &b.all, &b.late, new(sql.NullString))
	if errors.Is(err, sql.ErrNoRows) {
		return beats{}, false, nil
	}
	if err != nil {
		return beats{}, false, fmt.Errorf("renew the replica's row: %w", err)
	}
	return b, true, nil
}

// replicaBeat returns the beat of our row.
func (db *DB) replicaBeat(ctx context.Context) (beat int64, found bool, err error) {
	err = db.reader.Query(ctx, selectReplica, []any{db.lease.token().holder}, func(r *sql.Rows) error {
		found = true
		return r.Scan(&beat)
	})
	if err != nil {
		return 0, false, fmt.Errorf("read the replica's row: %w", err)
	}
	return beat, found, nil
}

// stillReplica reports whether our row is there, and not older than we left it.
func (db *DB) stillReplica(ctx context.Context) (bool, error) {
	db.lease.mu.Lock()
	known := db.lease.beat
	db.lease.mu.Unlock()
	beat, found, err := db.replicaBeat(ctx)
	return found && beat >= known, err
}

// Replicas returns the live replicas with the numbers of their accounts. Without a cluster
// there are none.
func (db *DB) Replicas(ctx context.Context) ([]Replica, error) {
	if db.cluster == nil {
		return nil, nil
	}
	var all []Replica
	err := db.reader.Query(ctx, pgListReplicas, nil, func(r *sql.Rows) error {
		var one Replica
		err := r.Scan(append(one.targets(), &one.Accounts)...)
		one.Self = one.Name == db.lease.token().holder
		all = append(all, one)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list replicas: %w", err)
	}
	return all, nil
}

// targets are where replicaColumns go.
func (r *Replica) targets() []any {
	return []any{&r.Name, &r.Process, &r.Advertise, sqlio.FlagInto(&r.Draining), microsInto{&r.ExpiresIn}}
}

// microsInto scans a number of microseconds.
type microsInto struct{ to *time.Duration }

// Scan implements sql.Scanner.
func (m microsInto) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("time is a %T", v)
	}
	*m.to = time.Duration(n) * time.Microsecond
	return nil
}

// Drain has this replica take no more orphans, and tells the others. What it has stays.
func (db *DB) Drain(ctx context.Context) error {
	if db.cluster == nil {
		return nil
	}
	err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		_, err := t.Do(ctx, drainReplica, db.lease.token().holder)
		return err
	})
	if err != nil {
		return fmt.Errorf("drain replica: %w", err)
	}
	return nil
}
