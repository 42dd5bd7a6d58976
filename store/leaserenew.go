package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// renewals renews the lease until ctx is done or it is lost.
func (db *DB) renewals(ctx context.Context, ticks <-chan time.Time) {
	defer close(db.lease.stopped)
	if ticks == nil {
		t := time.NewTicker(db.lease.lasts / leaseBeats)
		defer t.Stop()
		ticks = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-db.lease.lost:
			return
		case <-ticks:
			bounded, cancel := context.WithTimeout(ctx, db.lease.lasts/leaseBeats)
			db.renew(bounded)
			cancel()
		}
	}
}

// renew tries to renew the lease once.
func (db *DB) renew(ctx context.Context) {
	l := db.lease
	if err := db.sameServer(ctx); err != nil {
		l.recordFailure(err, false)
		return
	}
	l.mu.Lock()
	from, to := l.beat, l.beat+l.unsureRenewals
	l.mu.Unlock()
	began := time.Now()
	now, held, err := l.renewOnce(ctx, db.reader.DB, from, to)
	switch {
	case err != nil:
		l.recordFailure(err, true)
		return
	case !held:
		_ = l.lose(db.leaseHolder(ctx))
		return
	}
	err = db.noteBeat(now.all)
	l.mu.Lock()
	l.beat, l.counted, l.unsureRenewals, l.failure = now.own, now.all, 0, err
	if err == nil {
		l.renewed = began
	}
	l.mu.Unlock()
	if now.late {
		if err := db.checkOwned(ctx); err != nil {
			l.recordFailure(err, false)
		}
	}
}

func (l *lease) renewOnce(ctx context.Context, db *sql.DB, from, to int64) (now beats, held bool, err error) {
	if !l.replica {
		now.own, held, err = l.renewLease(ctx, db, from, to)
		now.all = now.own
		return now, held, err
	}
	l.mu.Lock()
	counted := l.counted
	l.mu.Unlock()
	return l.renewReplica(ctx, db, from, to, counted)
}

// recordFailure records a failed renewal; sent means that it may have been made.
func (l *lease) recordFailure(err error, sent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = err
	if sent {
		l.unsureRenewals++
	}
}

// leaseHolder returns who has the lease now, for the error.
func (db *DB) leaseHolder(ctx context.Context) string {
	if db.lease.replica {
		if _, found, err := db.replicaBeat(ctx); err == nil && found {
			return lostByASetBack
		}
		return lostItsRow
	}
	row, found, err := db.readLease(ctx, db.reader.Query)
	switch {
	case err != nil || (found && row.token != db.lease.token()):
		return lostToAnother
	case !found:
		return lostWithItsTable
	default:
		return lostByASetBack
	}
}

// sameServer marks the lease as lost when another server answers than the one that granted
// it.
func (db *DB) sameServer(ctx context.Context) error {
	now, err := pgServer(ctx, func(ctx context.Context, q string, to *string) error {
		return db.reader.DB.QueryRowContext(ctx, q).Scan(to)
	})
	if err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	return db.lease.checkServer(now)
}

func (l *lease) checkServer(now string) error {
	l.mu.Lock()
	other := l.server != "" && !serversMatch(l.server, now)
	l.mu.Unlock()
	if other {
		return l.lose(lostWithAServer)
	}
	return nil
}

// startRenewals starts the renewals of a lease. SQLite needs none.
func (db *DB) startRenewals(ticks <-chan time.Time) {
	if !db.dialect.SharedPool {
		return
	}
	ctx, end := context.WithCancel(context.Background())
	db.lease.end, db.lease.stopped = end, make(chan struct{})
	go db.renewals(ctx, ticks)
	if db.cluster != nil {
		go db.owned.telling(ctx.Done())
	}
}

// endLease ends the renewals and releases the lease, so that the next process need not wait.
func (db *DB) endLease() error {
	l := db.lease
	if l.stopped == nil {
		return nil
	}
	l.end()
	<-l.stopped
	l.stopped = nil
	if db.cluster != nil {
		<-db.owned.stopped
	}
	if l.lostErr() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseWait)
	defer cancel()
	if l.replica {
		return db.endReplica(ctx)
	}
	beat, held, err := l.releaseLease(ctx, db.reader.DB)
	if err != nil || !held {
		return err
	}
	return db.noteBeat(beat)
}
