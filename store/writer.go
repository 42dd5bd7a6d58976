package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"e2ee-proxy/internal/backoff"
	"e2ee-proxy/store/internal/sqlio"
)

// writer runs transactions. What do writes is committed whole or not at all, and is durable
// when run returns nil. When run returns an error that is not [ErrUnsure], nothing was
// written. do may be run again.
type writer interface {
	run(ctx context.Context, do func(context.Context, *sqlio.Tx) error) error
	close() error
}

// Limits of a transaction on PostgreSQL.
const (
	pgTries   = 5
	pgTimeout = 30 * time.Second
)

// conflictPauses returns the pauses after a conflict between transactions: they must not
// meet again.
func conflictPauses() backoff.Range {
	return backoff.Range{First: 2 * time.Millisecond, Last: 50 * time.Millisecond}
}

// pgWriter lets PostgreSQL run transactions side by side.
type pgWriter struct {
	db    *sql.DB
	texts *sqlio.TextCache
	lease *lease
	// refused returns why a transaction for an account, or for none, was refused.
	refused func(context.Context, *Account) error
}

// run ignores the caller's cancellation once the transaction has begun, so that a client
// which hangs up does not leave its outcome unknown.
func (w *pgWriter) run(ctx context.Context, do func(context.Context, *sqlio.Tx) error) error {
	for try := 1; ; try++ {
		if err := errors.Join(ctx.Err(), w.lease.lostErr()); err != nil {
			return err
		}
		err := w.once(context.WithoutCancel(ctx), do)
		if errors.Is(err, errFenced) { // by the first statement, or by the commit
			return w.refused(context.WithoutCancel(ctx), fencedAccount(ctx))
		}
		if err == nil || !isRetryable(err) || try == pgTries {
			return err
		}
		select {
		case <-time.After(conflictPauses().After(try)):
		case <-ctx.Done(): // returned above
		}
	}
}

func (w *pgWriter) once(ctx context.Context, do func(context.Context, *sqlio.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, pgTimeout)
	defer cancel()
	s, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := do(ctx, &sqlio.Tx{Execer: pgTx{s}, Texts: w.texts}); err != nil {
		if undo := s.Rollback(); undo != nil && !errors.Is(undo, sql.ErrTxDone) {
			return fmt.Errorf("%w (and roll back: %w)", err, undo)
		}
		return err
	}
	if err := s.Commit(); err != nil {
		return commitError(err)
	}
	return nil
}

// close does nothing: the reader owns the pool.
func (w *pgWriter) close() error { return nil }

type pgTx struct{ *sql.Tx }

func (t pgTx) Exec(ctx context.Context, text string, params []any) (sql.Result, error) {
	return t.ExecContext(ctx, text, params...)
}

// Later implements [sqlio.Execer]: pgConn runs the statement when something is wanted of it or of
// the transaction.
func (t pgTx) Later(ctx context.Context, text string, params []any, want sqlio.Want) error {
	_, err := t.ExecContext(wanting(ctx, want), text, params...)
	return err
}

func (t pgTx) Query(ctx context.Context, text string, params []any) (*sql.Rows, error) {
	return t.QueryContext(ctx, text, params...)
}
