package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"

	"e2ee-proxy/store/internal/sqlio"
)

// maxGroup is how many transactions are committed together at most.
const maxGroup = 64

// liteWriter is the only connection that writes to a SQLite database. Transactions that
// wait while another is being committed are committed together, because making a commit
// durable costs more than everything else: whoever gets the turn runs what all the others
// have queued. Each is still all or nothing by itself, by way of a savepoint.
type liteWriter struct {
	db    *sql.DB
	texts *sqlio.TextCache
	mark  *markFile
	lease *lease

	sem  chan struct{} // holds one value while somebody writes; guards conn and kept
	conn *sql.Conn
	kept map[string]*sql.Stmt

	mu    sync.Mutex
	queue []*job
}

type job struct {
	do   func(*sqlio.Tx) error
	err  error
	done chan error
}

func newLiteWriter(db *sql.DB, t *sqlio.TextCache, m *markFile, l *lease) *liteWriter {
	return &liteWriter{db: db, texts: t, mark: m, lease: l, sem: make(chan struct{}, 1), kept: make(map[string]*sql.Stmt)}
}

// run stops waiting for its turn when ctx is done; once begun it goes on to the end.
func (w *liteWriter) run(ctx context.Context, do func(context.Context, *sqlio.Tx) error) error {
	if err := errors.Join(ctx.Err(), w.lease.lostErr()); err != nil {
		return err
	}
	whole := context.WithoutCancel(ctx)
	j := &job{do: func(t *sqlio.Tx) error { return do(whole, t) }, done: make(chan error, 1)}
	w.mu.Lock()
	w.queue = append(w.queue, j)
	w.mu.Unlock()
	for {
		select {
		case err := <-j.done:
			return err
		case w.sem <- struct{}{}:
			w.commit(whole, w.take())
			<-w.sem
		case <-ctx.Done():
			if w.dequeue(j) {
				return ctx.Err()
			}
			return <-j.done
		}
	}
}

func (w *liteWriter) take() []*job {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.queue), maxGroup)
	group := w.queue[:n:n]
	w.queue = w.queue[n:]
	return group
}

// dequeue removes a job from the queue, and reports false if it was taken already.
func (w *liteWriter) dequeue(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.queue {
		if w.queue[i] == j {
			w.queue = append(w.queue[:i:i], w.queue[i+1:]...)
			return true
		}
	}
	return false
}

// commit runs a group of jobs in one transaction and hands each its result. The caller has
// the turn.
func (w *liteWriter) commit(ctx context.Context, group []*job) {
	if len(group) == 0 {
		return
	}
	generation, err := w.transact(ctx, group)
	if err == nil && generation > 0 {
		if err = w.mark.advance(generation); err != nil {
			err = fmt.Errorf("%w: %w", ErrUnsure, err)
		}
	}
	for _, j := range group {
		if j.err == nil {
			j.err = err
		}
		j.done <- j.err
	}
}

// transact returns the generation of the ratchets it wrote, 0 if it wrote none.
func (w *liteWriter) transact(ctx context.Context, group []*job) (int64, error) {
	t := &sqlio.Tx{Execer: w, Texts: w.texts}
	if _, err := t.Do(ctx, "BEGIN IMMEDIATE"); err != nil {
		return 0, w.rollback(ctx, fmt.Errorf("begin: %w", err))
	}
	if len(group) == 1 {
		if group[0].err = group[0].do(t); group[0].err != nil {
			return 0, w.rollback(ctx, group[0].err)
		}
	} else {
		for _, j := range group {
			if err := w.runInSavepoint(ctx, j, t); err != nil {
				return 0, w.rollback(ctx, err)
			}
		}
	}
	generation, err := w.fence(ctx, t)
	if err != nil {
		return 0, w.rollback(ctx, err)
	}
	if _, err := t.Do(ctx, "COMMIT"); err != nil {
		// Rolled back, but what reached the file before a crash may be found valid after it.
		return 0, w.rollback(ctx, fmt.Errorf("commit: %w: %w", ErrUnsure, err))
	}
	return generation, nil
}

// fence checks that the lease is still ours, and counts a transaction that moved a ratchet.
// Nobody else writes before the transaction ends.
func (w *liteWriter) fence(ctx context.Context, t *sqlio.Tx) (generation int64, err error) {
	ours := w.lease.token()
	switch {
	case ours == token{} && t.Ratchet: // the database is being opened
		return nextGeneration(ctx, t)
	case ours == token{}:
		return 0, nil
	}
	held := false
	text, to := liteHoldsLease, &generation
	if t.Ratchet {
		text = nextGenerationOfHolder
	}
	err = t.Rows(ctx, text, []any{ours.epoch, ours.holder}, func(r *sql.Rows) error {
		held = true
		return r.Scan(to)
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("check lease: %w", err)
	case !held:
		return 0, w.lease.lose(lostToAnother)
	case !t.Ratchet:
		return 0, nil
	}
	return generation, nil
}

// runInSavepoint runs one job of several. An error means that the transaction cannot go on.
func (w *liteWriter) runInSavepoint(ctx context.Context, j *job, t *sqlio.Tx) error {
	if _, err := t.Do(ctx, "SAVEPOINT job"); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if j.err = j.do(t); j.err != nil {
		if _, err := t.Do(ctx, "ROLLBACK TO job"); err != nil {
			return fmt.Errorf("roll back: %w", err)
		}
	}
	if _, err := t.Do(ctx, "RELEASE job"); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	return nil
}

// rollback rolls back and returns why. A connection that cannot even roll back is closed, which
// rolls back too; the next transaction gets a new one.
func (w *liteWriter) rollback(ctx context.Context, why error) error {
	if w.conn == nil {
		return why
	}
	if _, err := w.Exec(ctx, "ROLLBACK", nil); err != nil {
		w.abandon()
	}
	return why
}

func (w *liteWriter) abandon() {
	for _, s := range w.kept {
		_ = s.Close() // the connection is closed because it fails
	}
	clear(w.kept)
	_ = w.conn.Raw(func(any) error { return driver.ErrBadConn }) // makes the pool drop it
	_ = w.conn.Close()
	w.conn = nil
}

func (w *liteWriter) prepare(ctx context.Context, text string) (*sql.Stmt, error) {
	if s, ok := w.kept[text]; ok {
		return s, nil
	}
	if w.conn == nil {
		conn, err := w.db.Conn(ctx)
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		w.conn = conn
	}
	s, err := w.conn.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	w.kept[text] = s
	return s, nil
}

// Later implements [sqlio.Execer]: there is no round trip to save.
func (w *liteWriter) Later(ctx context.Context, text string, params []any, want sqlio.Want) error {
	res, err := w.Exec(ctx, text, params)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	return want.Check(n)
}

func (w *liteWriter) Exec(ctx context.Context, text string, params []any) (sql.Result, error) {
	s, err := w.prepare(ctx, text) //nolint:sqlclosecheck // kept for as long as the connection
	if err != nil {
		return nil, err
	}
	return s.ExecContext(ctx, params...)
}

func (w *liteWriter) Query(ctx context.Context, text string, params []any) (*sql.Rows, error) {
	s, err := w.prepare(ctx, text) //nolint:sqlclosecheck // kept for as long as the connection
	if err != nil {
		return nil, err
	}
	return s.QueryContext(ctx, params...)
}

// close waits for the transaction under way. Later ones fail.
func (w *liteWriter) close() error {
	w.sem <- struct{}{}
	defer func() { <-w.sem }()
	var err error
	if w.conn != nil {
		for _, s := range w.kept {
			err = errors.Join(err, s.Close())
		}
		clear(w.kept)
		err = errors.Join(err, w.conn.Close())
		w.conn = nil
	}
	return errors.Join(err, w.db.Close(), w.mark.close())
}
