package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/store/internal/sqlio"
)

// One process writes to a database. Two would each advance the same ratchets and encrypt
// two messages with one key, so the second one refuses to start, and a process that was
// taken for dead must not go on when it comes back.
//
// The right to write is a row, the lease. Who takes it adds one to its epoch and writes a
// random name, and every transaction that writes checks in the same transaction that epoch
// and name are unchanged, or writes nothing ([ErrLeaseLost]). That is the fence; the
// lease's end only tells others when they may take it, by PostgreSQL's clock. The holder
// renews it long before, and releases it when it closes the database.
//
// A lock on the table makes sure that the epoch does not change between check and commit.
// The check takes it, and it lasts as long as the transaction: shared by writers, exclusive
// for who takes the lease. Unlike advisory locks of a session it needs no connection of its
// own and works behind a pooler. Who takes the lease waits for the writers that are under
// way; PostgreSQL ends the session of one that is frozen.
//
// The beat of the lease counts its renewals. The holder knows the last one, so that it
// notices a database that was set back while it was open; and a file beside the master key
// has it too, see restore.go.
//
// SQLite has the lock on the file beside the database, which the system releases when its
// owner dies, so that its lease never ends. The epoch is checked there too: a lock whose
// file was deleted keeps nobody out.
//
// When a standby takes over that did not have the latest transactions, memory and database
// differ, and devices that are read again would use an index a second time. So the process
// ends when it sees that the server it is connected to is another one, or another timeline,
// and what was outbound is discarded when it starts again.

const (
	leaseTime  = 12 * time.Second
	leaseBeats = 4 // renewals in the time of a lease
	// leaseSlack is how much longer than a lease others wait for its end.
	leaseSlack  = time.Second
	releaseWait = 5 * time.Second
	// leastFrozen is for short leases: a busy machine is not a frozen one.
	leastFrozen = 2 * time.Second
)

// token identifies our lease. The name beside the epoch is for servers that have lost the
// latest epoch.
type token struct {
	epoch  int64
	holder string
}

// lease is this process's right to write. Its renewals are a goroutine that [DB.Close] ends.
type lease struct {
	lasts time.Duration
	// replica reports whether it is a row in the table replicas, which the token's holder names.
	replica bool
	// frozen is how long PostgreSQL lets a transaction of ours be idle, in milliseconds.
	frozen string

	lost    chan struct{} // closed when the lease is lost
	end     context.CancelFunc
	stopped chan struct{} // closed when the renewals have ended

	mu             sync.Mutex
	ownToken       token // the zero value before it is taken
	server         string
	timeline       string    // of the server; empty where it is not revealed
	beat           int64     // of the lease, or of the replica's row
	counted        int64     // the lease's beat, as counted by all replicas
	unsureRenewals int64     // renewals that may or may not have been made
	renewed        time.Time // the last renewal
	failure        error     // of the renewals since then
	lostReason     error     // why it was lost
}

func newLease(lasts time.Duration, replica bool) *lease {
	switch {
	case lasts > 0:
	case replica:
		lasts = clusterLease
	default:
		lasts = leaseTime
	}
	return &lease{lasts: lasts, replica: replica, frozen: strconv.FormatInt(max(lasts, leastFrozen).Milliseconds(), 10), lost: make(chan struct{}), end: func() {}}
}

// LeaseLost returns a channel that is closed when another process has taken the database
// over, or the database is no longer the one that was opened. Nothing can be written any
// more; [DB.Lease] returns why.
func (db *DB) LeaseLost() <-chan struct{} { return db.lease.lost }

// Lease returns nil if this process may write. An error is [ErrLeaseLost], or says that it
// may be lost soon, because it cannot be renewed.
func (db *DB) Lease() error {
	l := db.lease
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.lostReason != nil:
		return l.lostReason
	case l.failure != nil && time.Since(l.renewed) > l.lasts:
		return fmt.Errorf("the lease of the database has run out: %w", l.failure)
	default:
		return nil
	}
}

func (l *lease) token() token {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ownToken
}

// lostErr returns the error of a lost lease, else nil.
func (l *lease) lostErr() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lostReason
}

// lose marks the lease as lost, with a reason that can be shown.
func (l *lease) lose(why string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lostReason == nil {
		l.lostReason = withHint(fmt.Errorf("%w: %s", ErrLeaseLost, why), "one process per database: see to it that only one runs, then start it again")
		close(l.lost)
	}
	return l.lostReason
}

// hold begins to hold a lease that was taken.
func (l *lease) hold(row leaseRow, server string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ownToken, l.beat, l.counted, l.renewed = row.token, row.beat, row.beat, time.Now()
	if l.replica {
		l.beat = firstBeat
	}
	l.server, l.timeline = server, timelineOf(server)
}

// heldError means that other processes have the database, and in which way.
type heldError struct {
	who  []string
	left time.Duration // until it may be free
	why  string        // added to who, may be empty
	hint string
}

func (e *heldError) Error() string {
	return fmt.Sprintf("%v: e2ee-proxy on %s%s", ErrInUse, strings.Join(e.who, "; on "), e.why)
}

func (e *heldError) Unwrap() error { return ErrInUse }

const (
	leaseVersion     = 6 // the first schema version with a lease
	lostToAnother    = "another process has taken the database over, or it was replaced"
	lostByASetBack   = "the database was set back to an older state while it was in use"
	lostWithAServer  = "the database server was replaced by another one (failover or restore)"
	lostWithItsTable = "the database was replaced or emptied while it was in use"
)

// acquire takes the lease in the transaction that opens the database. The error is a
// heldError if another process has it, or a cluster. version is that of the tables before they
// were migrated.
func (db *DB) acquire(ctx context.Context, t *sqlio.Tx, version int64, o *openResult) error {
	if db.dialect.SharedPool {
		row, found, err := db.readLease(ctx, t.Rows)
		if err != nil {
			return err
		}
		if found && row.holder != "" && row.left > 0 && row.left <= db.lease.longest() {
			return db.heldBy(row)
		}
		if version >= replicaVersion {
			if err := db.checkReplicas(ctx, t, version); err != nil {
				return err
			}
		}
		o.beat = row.beat
		if db.cluster == nil || row.holder != "" {
			if _, err := t.Do(ctx, pgLockLease); err != nil {
				return fmt.Errorf("wait for writers: %w", err)
			}
		}
	}
	if db.cluster != nil {
		return db.leaseToCluster(ctx, t, o)
	}
	row, held, err := db.takeLease(ctx, t, db.markedBeat())
	if err == nil && held {
		if row, _, err = db.readLease(ctx, t.Rows); err == nil {
			err = db.heldBy(row)
		}
	}
	if err == nil && db.dialect.SharedPool && version >= replicaVersion {
		err = replaceReplicas(ctx, t)
	}
	o.lease = row
	return err
}

// longest is how far away the end of another process's lease may be, which may last longer
// than ours. One that is further away was set by another clock.
func (l *lease) longest() time.Duration { return 2 * max(l.lasts, leaseTime) }

// heldBy is the error about the process that has the lease.
func (db *DB) heldBy(row leaseRow) error {
	e := &heldError{who: []string{row.process}, left: row.left, hint: "stop the other e2ee-proxy, or give this one a database of its own"}
	if db.cluster != nil {
		e.why, e.hint = ", which runs without cluster", "stop it and start it again as a replica, or give this one a database of its own"
	}
	return e
}

// awaitLease repeats an attempt to open the database for as long as a lease lasts: its holder
// may have died without releasing it.
func (db *DB) awaitLease(ctx context.Context, waiting func(why error), attempt func() error) error {
	deadline := time.Now().Add(db.lease.lasts + min(leaseSlack, db.lease.lasts))
	looks := backoff.Range{First: db.lease.lasts / 100, Last: db.lease.lasts / leaseBeats}
	told := false
	for {
		err := attempt()
		var held *heldError
		if !errors.As(err, &held) {
			return err
		}
		if !time.Now().Before(deadline) {
			return withHint(err, held.hint)
		}
		if !told && waiting != nil {
			waiting(held)
		}
		told = true
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(looks.AtLeast(looks.After(1), held.left)):
		}
	}
}

// thisProcess returns a name by which a person can find this process.
func thisProcess() string {
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown host"
	}
	return fmt.Sprintf("%s, process %d", host, os.Getpid())
}
