package store

import (
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"e2ee-proxy/store/internal/sqlio"
)

// Errors that callers decide by. They may be wrapped.
var (
	// ErrNotFound means that the row, or the device or account it belongs to, does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists means that a device with this ID exists already.
	ErrExists = errors.New("exists already")
	// ErrMasterKey means that the database cannot be opened with the master keys given.
	ErrMasterKey = errors.New("wrong or missing master key")
	// ErrNewer means that the database was written by a newer version of this program.
	ErrNewer = errors.New("database is newer than this program")
	// ErrInUse means that another process has the database open for writing.
	ErrInUse = errors.New("database is in use by another process")
	// ErrLeaseLost means that another process has taken the database over, or that it is no
	// longer the one that was opened. Nothing was written and nothing will be: end the process.
	ErrLeaseLost = errors.New("this process may not write to the database any more")
	// ErrReadOnly means that a write was tried on a database opened with Options.ReadOnly.
	ErrReadOnly = errors.New("database was opened for reading only")
	// ErrSealed means that a sealed value was changed, moved or damaged.
	ErrSealed = errors.New("sealed value refused")
	// ErrStale means that the outbound session in the database is further along than, or was
	// replaced after, the one to be saved. Its next index may have been used already, so
	// nothing was written: drop what is in memory and read the session again.
	ErrStale = errors.New("a newer state of the session is stored")
	// ErrTransactionTaken means that a transaction which must be new is stored already. Nothing
	// was written.
	ErrTransactionTaken = errors.New("the transaction is stored already")
	// ErrUnsure means that the outcome of a commit is not known: the connection broke, or time
	// ran out, while it was made. All of the changes may have been written, or none. What was
	// to be saved is only a guess then: drop it from memory and read it again. Every other
	// error of a write means that nothing was written.
	ErrUnsure = errors.New("it is not known whether the changes were written")
	// ErrTooLong means that an identifier is longer than a key of a table may be.
	ErrTooLong = sqlio.ErrTooLong
)

// hintError is an error with a hint for its reader.
type hintError struct {
	err  error
	hint string
}

// withHint adds to err what a person can do about it.
func withHint(err error, hint string) error { return &hintError{err: err, hint: hint} }

// Error returns the error and the hint in one line.
func (h *hintError) Error() string { return h.err.Error() + " (" + h.hint + ")" }

// Unwrap returns the error alone.
func (h *hintError) Unwrap() error { return h.err }

// Hint returns what a person can do.
func (h *hintError) Hint() string { return h.hint }

// SQLSTATE classes of PostgreSQL that matter here.
const (
	pgForeignKey    = "23503"
	pgSerialization = "40001"
	pgDeadlock      = "40P01"
	// A pooler has given the session another connection.
	pgNoStatement     = "26000"
	pgStatementExists = "42P05"
	// Both mean that the server does not know either.
	pgUnknownOutcome   = "08007"
	pgUnknownStatement = "40003"
)

// isForeignKey reports whether the device or account that a row belongs to is gone.
func isForeignKey(err error) bool {
	var l *sqlite.Error
	if errors.As(err, &l) {
		return l.Code() == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
	}
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == pgForeignKey
}

// commitError returns the error of a commit, with ErrUnsure unless the database has said
// that it did not commit.
func commitError(err error) error {
	if isUncommitted(err) {
		return fmt.Errorf("commit: %w", err)
	}
	return fmt.Errorf("commit: %w: %w", ErrUnsure, err)
}

// isUncommitted reports whether COMMIT was never sent, or PostgreSQL answered that it
// rolled back. A server that ends the connection (severity FATAL) may have committed
// before. pgconn.SafeToRetry cannot be used: it takes a connection that breaks while the
// answer is awaited for one that was closed before.
func isUncommitted(err error) bool {
	var ours *statementError
	if errors.Is(err, sql.ErrTxDone) || errors.Is(err, pgx.ErrTxCommitRollback) || errors.As(err, &ours) {
		return true
	}
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR" && pg.Code != pgUnknownOutcome && pg.Code != pgUnknownStatement
}

// poolerHint adds a hint if statements that were prepared are looked for in another session.
func poolerHint(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == pgNoStatement || pg.Code == pgStatementExists) {
		return withHint(err, "behind a pooler in transaction mode add default_query_exec_mode=cache_describe to the URL, or have it keep prepared statements")
	}
	return err
}

// isRetryable reports whether an error is a conflict between transactions, which succeed
// when repeated. Nothing of the failed transaction was written.
func isRetryable(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == pgSerialization || pg.Code == pgDeadlock)
}
