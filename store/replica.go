package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"e2ee-proxy/store/internal/sqlio"
)

const (
	replicaVersion = 15 // the first schema version with replicas
	firstBeat      = 1
	lostItsRow     = "its row among the replicas is gone: another process has the database for itself, or it was restored or replaced"
)

// checkReplicas refuses to open a database beside live replicas that this process does not go
// with.
func (db *DB) checkReplicas(ctx context.Context, t *sqlio.Tx, version int64) error {
	live, err := liveReplicas(ctx, t.Rows)
	if err != nil || len(live) == 0 {
		return err
	}
	if db.cluster == nil {
		return clusterHolds(live)
	}
	for _, r := range live {
		if r.advertise != "" && r.advertise == db.cluster.Advertise {
			held := heldByReplicas(r)
			held.why, held.hint = ", with the same address for other replicas", "give each replica an address of its own to advertise"
			return held
		}
	}
	if version < db.latest() {
		held := heldByReplicas(live...)
		held.why = fmt.Sprintf(" with schema version %d, which this program (%d) would change under them", version, db.latest())
		held.hint = "stop these first, then start the new ones"
		return held
	}
	return db.checkTheirKeys(live)
}

func heldByReplicas(live ...replicaRow) *heldError {
	held := &heldError{}
	for _, r := range live {
		held.who = append(held.who, r.process)
		held.left = max(held.left, r.left)
	}
	return held
}

// clusterHolds is the error for a process that wants the database for itself.
func clusterHolds(live []replicaRow) error {
	held := heldByReplicas(live...)
	held.why, held.hint = ", as a cluster", "stop them, or set cluster for this one too, or give it a database of its own"
	return held
}

// checkTheirKeys refuses a master key that another replica does not have, and one that it has
// and we have not: either would make accounts that the other one cannot open.
func (db *DB) checkTheirKeys(live []replicaRow) error {
	for _, r := range live {
		if !slices.Contains(r.keys, db.main.ID()) {
			return withHint(fmt.Errorf("%w: the replica on %s does not have the key with ID %.16q", ErrMasterKey, r.process, db.main.ID()),
				"all replicas of a cluster have the same; for a new one give it to each as an old one first, then as the current one")
		}
		if len(r.keys) > 0 {
			if _, err := db.masterKey(r.keys[0]); err != nil {
				return fmt.Errorf("the replica on %s uses a key that this one lacks: %w", r.process, err)
			}
		}
	}
	return nil
}

// leaseToCluster ends the lease of a single process and counts the start of a replica.
func (db *DB) leaseToCluster(ctx context.Context, t *sqlio.Tx, o *openResult) error {
	o.lease = leaseRow{token: token{holder: randomText()}, process: thisProcess()}
	taken := false
	err := t.Rows(ctx, pgNoLease, []any{db.markedBeat(), db.lease.longest().Microseconds()}, func(r *sql.Rows) error {
		taken = true
		return r.Scan(&o.lease.epoch, &o.lease.beat)
	})
	if err != nil {
		return fmt.Errorf("end the lease: %w", err)
	}
	if !taken { // it was renewed while we waited for its writers
		row, _, err := db.readLease(ctx, t.Rows)
		if err != nil {
			return err
		}
		return db.heldBy(row)
	}
	return nil
}

// replaceReplicas takes the database from replicas that are dead.
func replaceReplicas(ctx context.Context, t *sqlio.Tx) error {
	if err := lockReplicas(ctx, t); err != nil {
		return err
	}
	live, err := liveReplicas(ctx, t.Rows)
	if err != nil {
		return err
	}
	if len(live) > 0 { // one was renewed while we waited for its writers
		return clusterHolds(live)
	}
	return endReplicas(ctx, t)
}

// lockReplicas waits for the transactions of all replicas.
func lockReplicas(ctx context.Context, t *sqlio.Tx) error {
	if _, err := t.Do(ctx, pgLockReplicas); err != nil {
		return fmt.Errorf("wait for replicas: %w", err)
	}
	return nil
}

// endReplicas ends the right of all replicas to write.
func endReplicas(ctx context.Context, t *sqlio.Tx) error {
	if _, err := t.Do(ctx, dropReplicas); err != nil {
		return fmt.Errorf("end replicas: %w", err)
	}
	return nil
}

// endRestored ends all replicas before what is outbound is discarded: what they have in memory
// is of the time before the restore.
func (db *DB) endRestored(ctx context.Context, t *sqlio.Tx, version int64) error {
	if db.cluster == nil || version < replicaVersion {
		return nil
	}
	if err := lockReplicas(ctx, t); err != nil {
		return err
	}
	return endReplicas(ctx, t)
}

// endReplica deletes our row, so that others need not wait for its end. The accounts are
// nobody's then.
func (db *DB) endReplica(ctx context.Context) error {
	if _, err := db.reader.DB.ExecContext(ctx, dropReplica, db.lease.token().holder); err != nil {
		return fmt.Errorf("leave the cluster: %w", err)
	}
	return nil
}

// checkRotation refuses to wrap keys with one that a live replica does not have.
func (db *DB) checkRotation(ctx context.Context, query querier) error {
	if db.cluster == nil {
		return nil
	}
	live, err := liveReplicas(ctx, query)
	if err != nil {
		return err
	}
	var without []string
	for _, r := range live {
		if !slices.Contains(r.keys, db.main.ID()) {
			without = append(without, r.process)
		}
	}
	if len(without) > 0 {
		return withHint(fmt.Errorf("%w: replicas without the new key: %s", ErrMasterKey, strings.Join(without, ", ")), "give it to them as an old one first")
	}
	return nil
}
