package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
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

// pgConn sends the begin of a transaction, and its fence, together with its first statement,
// so that the fence costs no round trip.
type pgConn struct {
	*stdlib.Conn
	lease *lease
	// begun reports whether a transaction has begun here, but not yet at the server; account is
	// the one that it is for.
	begun   bool
	account *Account
}

// BeginTx implements driver.ConnBeginTx.
func (c *pgConn) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	if c.Conn.Conn().IsClosed() {
		return nil, driver.ErrBadConn
	}
	c.begun, c.account = true, fencedAccount(ctx)
	return &pgConnTx{conn: c, ctx: ctx}, nil
}

// ExecContext implements driver.ExecerContext.
func (c *pgConn) ExecContext(ctx context.Context, text string, params []driver.NamedValue) (driver.Result, error) {
	if !c.begun {
		return c.Conn.ExecContext(ctx, text, params)
	}
	args := make([]any, len(params))
	for i, p := range params {
		args[i] = p.Value
	}
	return c.beginWith(ctx, text, args)
}

// QueryContext implements driver.QueryerContext.
func (c *pgConn) QueryContext(ctx context.Context, text string, params []driver.NamedValue) (driver.Rows, error) {
	if c.begun {
		if _, err := c.beginWith(ctx, "", nil); err != nil {
			return nil, err
		}
	}
	return c.Conn.QueryContext(ctx, text, params)
}

// beginWith begins the transaction at the server and runs its first statement, if there is one.
// Its effect is rolled back if the fence refuses it.
func (c *pgConn) beginWith(ctx context.Context, text string, args []any) (_ driver.Result, err error) {
	c.begun = false
	fence, params := c.lease.fence(c.account)
	fenced := fence != ""
	if !fenced {
		fence = "SELECT " + pgSynced
	}
	var b pgx.Batch
	b.Queue("begin")
	b.Queue(fence, params...)
	if text != "" {
		b.Queue(text, args...)
	}
	r := c.Conn.Conn().SendBatch(ctx, &b)
	defer func() { err = errors.Join(err, r.Close()) }()
	if _, err := r.Exec(); err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	found, err := r.Exec()
	if err != nil {
		return nil, fmt.Errorf("check lease: %w", err)
	}
	if fenced && found.RowsAffected() == 0 {
		return nil, errFenced
	}
	if text == "" {
		return driver.RowsAffected(0), nil
	}
	done, err := r.Exec()
	return driver.RowsAffected(done.RowsAffected()), err
}

// pgConnTx is a transaction of pgConn.
type pgConnTx struct {
	conn *pgConn
	ctx  context.Context //nolint:containedctx // as driver.Tx wants it
}

// Commit implements driver.Tx.
func (t *pgConnTx) Commit() error { return t.finish("commit") }

// Rollback implements driver.Tx.
func (t *pgConnTx) Rollback() error { return t.finish("rollback") }

func (t *pgConnTx) finish(how string) error {
	if t.conn.begun {
		t.conn.begun = false
		return nil // nothing was sent to the server
	}
	conn := t.conn.Conn.Conn()
	if how == "rollback" && conn.PgConn().TxStatus() == 'I' {
		return nil
	}
	tag, err := conn.Exec(t.ctx, how)
	if err != nil {
		if conn.PgConn().TxStatus() != 'I' {
			_ = conn.Close(t.ctx) // there is an error to return already
		}
		return err
	}
	if how == "commit" && tag.String() == "ROLLBACK" {
		return pgx.ErrTxCommitRollback
	}
	return nil
}
