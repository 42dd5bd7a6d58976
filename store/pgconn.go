package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"e2ee-proxy/store/internal/sqlio"
)

// pgConnector makes connections whose transactions are fenced; see fence.go.
type pgConnector struct {
	driver.Connector
	lease *lease
}

// Connect implements driver.Connector.
func (c *pgConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	plain, ok := conn.(*stdlib.Conn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a connection to PostgreSQL is a %T", conn), conn.Close())
	}
	return &pgConn{Conn: plain, lease: c.lease}, nil
}

// pgConn sends the statements of a transaction together: its begin, its fence, what is run in it,
// and the commit cost one round trip, unless something is read between them. A statement that
// has no effect which is wanted makes the server abort the transaction, and so skip the rest.
type pgConn struct {
	*stdlib.Conn
	lease *lease
	tx    *pgConnTx // under way, else nil
}

// maxWaiting is how many parameters of statements wait to be sent at most, so that a
// transaction of any size takes bounded memory.
const maxWaiting = 16384

// pgConnTx is a transaction of pgConn.
type pgConnTx struct {
	conn *pgConn
	ctx  context.Context //nolint:containedctx // as driver.Tx wants it
	// account is the one that it is for, nil if it is for none.
	account *Account

	begun   bool // whether the server was sent the begin
	waiting []pgStatement
	params  int   // of those that wait
	err     error // of the first statement that failed
}

type pgStatement struct {
	text string
	args []any
	fail error // what it means if the server reports a division by zero
	done *pgResult
}

// statementError is the error of a statement that made the transaction fail before its commit.
type statementError struct{ error }

func (e *statementError) Unwrap() error { return e.error }

const pgDividedByZero = "22012"

// pgOrFail returns a query without its FROM that fails with a division by zero unless the condition
// holds.
func pgOrFail(condition string) string {
	return "SELECT 1 / CASE WHEN " + condition + " THEN 1 ELSE 0 END"
}

// pgMust returns a statement that fails unless it changes n rows.
func pgMust(text string, n int64) string {
	return "WITH done AS (" + text + " RETURNING 1) " + pgOrFail("count(*) = "+strconv.FormatInt(n, 10)) + " FROM done"
}

type wantKey struct{}

// wanting has a statement run when something is wanted of it or of its transaction.
func wanting(ctx context.Context, want sqlio.Want) context.Context {
	return context.WithValue(ctx, wantKey{}, want)
}

// BeginTx implements driver.ConnBeginTx.
func (c *pgConn) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	if c.Conn.Conn().IsClosed() {
		return nil, driver.ErrBadConn
	}
	c.tx = &pgConnTx{conn: c, ctx: ctx, account: fencedAccount(ctx)}
	return c.tx, nil
}

// ExecContext implements driver.ExecerContext.
func (c *pgConn) ExecContext(ctx context.Context, text string, params []driver.NamedValue) (driver.Result, error) {
	if c.tx == nil {
		return c.Conn.ExecContext(ctx, text, params)
	}
	args := make([]any, len(params))
	for i, p := range params {
		args[i] = p.Value
	}
	s := pgStatement{text: text, args: args, done: &pgResult{tx: c.tx}}
	want, later := ctx.Value(wantKey{}).(sqlio.Want)
	if want.Else != nil {
		s.text, s.fail = pgMust(text, want.Rows), want.Else
	}
	if err := c.tx.add(s); err != nil {
		return nil, err
	}
	if !later {
		return s.done, c.tx.flush()
	}
	return s.done, nil
}

// QueryContext implements driver.QueryerContext.
func (c *pgConn) QueryContext(ctx context.Context, text string, params []driver.NamedValue) (driver.Rows, error) {
	if c.tx != nil {
		if err := c.tx.flush(); err != nil {
			return nil, err
		}
	}
	return c.Conn.QueryContext(ctx, text, params)
}

// pgResult is the result of a statement that may not have been run yet.
type pgResult struct {
	tx   *pgConnTx
	rows int64
}

// LastInsertId implements driver.Result.
func (r *pgResult) LastInsertId() (int64, error) { return 0, errors.ErrUnsupported }

// RowsAffected implements driver.Result.
func (r *pgResult) RowsAffected() (int64, error) {
	err := r.tx.flush()
	return r.rows, err
}

// add has a statement wait until the next flush.
func (t *pgConnTx) add(s pgStatement) error {
	t.waiting = append(t.waiting, s)
	if t.params += len(s.args); t.params > maxWaiting {
		return t.flush()
	}
	return t.err
}

// flush sends what waits, after the begin and the fence, and reads the answers.
func (t *pgConnTx) flush() error {
	if t.err != nil || t.begun && len(t.waiting) == 0 {
		return t.err
	}
	_, err := t.send("")
	return err
}

// send does what flush does, and sends one more statement. It returns the server's answer to that.
func (t *pgConnTx) send(last string) (pgconn.CommandTag, error) {
	all := t.waiting
	if !t.begun {
		all = append(t.begin(), all...)
	}
	t.begun, t.waiting, t.params = true, nil, 0
	var b pgx.Batch
	for _, s := range all {
		b.Queue(s.text, s.args...)
	}
	if last != "" {
		b.Queue(last)
	}
	r := t.conn.Conn.Conn().SendBatch(t.ctx, &b)
	tag, err := readBatch(r, all, last != "")
	if closing := r.Close(); err == nil && closing != nil {
		err = closing
	}
	t.err = err
	return tag, err
}

// readBatch reads the answers to statements, and to a last one.
func readBatch(r pgx.BatchResults, all []pgStatement, last bool) (tag pgconn.CommandTag, err error) {
	for _, s := range all {
		tag, err := r.Exec()
		var said *pgconn.PgError
		switch {
		case err == nil:
		case s.fail != nil && errors.As(err, &said) && said.Code == pgDividedByZero:
			return tag, &statementError{s.fail}
		default:
			return tag, err
		}
		if s.done != nil {
			s.done.rows = tag.RowsAffected()
		}
	}
	if last {
		tag, err = r.Exec()
	}
	return tag, err
}

// begin returns the statements with which the transaction begins.
func (t *pgConnTx) begin() []pgStatement {
	fence, params := t.conn.lease.fence(t.account)
	if fence == "" { // the database is being opened
		return []pgStatement{{text: "begin"}, {text: "SELECT " + pgSynced}}
	}
	return []pgStatement{
		{text: "begin"},
		{text: "WITH ours AS MATERIALIZED (" + fence + ") " + pgOrFail("count(*) > 0") + " FROM ours", args: params, fail: errFenced},
	}
}

// Commit implements driver.Tx.
func (t *pgConnTx) Commit() error {
	t.conn.tx = nil
	switch {
	case t.err != nil:
		_ = t.undo() // there is an error to return already
		return &statementError{t.err}
	case !t.begun && len(t.waiting) == 0:
		return nil // nothing was sent to the server
	}
	tag, err := t.send("commit")
	if err != nil {
		_ = t.undo()
		return err
	}
	if tag.String() == "ROLLBACK" {
		return pgx.ErrTxCommitRollback
	}
	return nil
}

// Rollback implements driver.Tx.
func (t *pgConnTx) Rollback() error {
	t.conn.tx, t.waiting = nil, nil
	if !t.begun {
		return nil
	}
	return t.undo()
}

// undo rolls back what the server has of the transaction; where that is not certain, it closes the
// connection.
func (t *pgConnTx) undo() error {
	conn := t.conn.Conn.Conn()
	if conn.PgConn().TxStatus() == 'I' {
		return nil
	}
	_, err := conn.Exec(t.ctx, "rollback")
	if conn.PgConn().TxStatus() != 'I' {
		_ = conn.Close(t.ctx) // there is an error to return already
	}
	return err
}
