package testdb

import (
	"context"
	"database/sql/driver"
	"errors"
	"sync"
)

// Hook wraps a driver, to count and to fail statements.
type Hook struct {
	mu     sync.Mutex
	before func(statement string) error
	seen   []string
}

// Watch starts counting anew; before, which may be nil, returns the error with which a
// statement fails.
func (h *Hook) Watch(before func(string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before, h.seen = before, nil
}

// Statements returns the statements since Watch.
func (h *Hook) Statements() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.seen...)
}

func (h *Hook) run(statement string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = append(h.seen, statement)
	if h.before == nil {
		return nil
	}
	return h.before(statement)
}

// as asserts what a driver must be for the store to work at all.
func as[T any](v any) T {
	t, _ := v.(T)
	return t
}

// Wrap wraps a connector, for store.Options.
func (h *Hook) Wrap(c driver.Connector) driver.Connector { return &hookConnector{c, h} }

type hookConnector struct {
	driver.Connector
	h *Hook
}

func (c *hookConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &hookConn{conn, c.h}, nil
}

type hookConn struct {
	driver.Conn
	h *Hook
}

func (c *hookConn) PrepareContext(ctx context.Context, text string) (driver.Stmt, error) {
	s, err := as[driver.ConnPrepareContext](c.Conn).PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	return &hookStmt{s, text, c.h}, nil
}

func (c *hookConn) ExecContext(ctx context.Context, text string, params []driver.NamedValue) (driver.Result, error) {
	if err := c.h.run(text); err != nil {
		return nil, err
	}
	return as[driver.ExecerContext](c.Conn).ExecContext(ctx, text, params)
}

func (c *hookConn) QueryContext(ctx context.Context, text string, params []driver.NamedValue) (driver.Rows, error) {
	if err := c.h.run(text); err != nil {
		return nil, err
	}
	return as[driver.QueryerContext](c.Conn).QueryContext(ctx, text, params)
}

func (c *hookConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := c.h.run("BEGIN"); err != nil {
		return nil, err
	}
	t, err := as[driver.ConnBeginTx](c.Conn).BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	return &hookTx{t, c.h}, nil
}

func (c *hookConn) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := c.Conn.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

func (c *hookConn) ResetSession(ctx context.Context) error {
	if r, ok := c.Conn.(driver.SessionResetter); ok {
		return r.ResetSession(ctx)
	}
	return nil
}

func (c *hookConn) Ping(ctx context.Context) error {
	if p, ok := c.Conn.(driver.Pinger); ok {
		return p.Ping(ctx)
	}
	return nil
}

type hookTx struct {
	driver.Tx
	h *Hook
}

func (t *hookTx) Commit() error {
	if err := t.h.run("COMMIT"); err != nil {
		return errors.Join(err, t.Rollback())
	}
	return t.Tx.Commit()
}

type hookStmt struct {
	driver.Stmt
	text string
	h    *Hook
}

func (s *hookStmt) ExecContext(ctx context.Context, params []driver.NamedValue) (driver.Result, error) {
	if err := s.h.run(s.text); err != nil {
		return nil, err
	}
	return as[driver.StmtExecContext](s.Stmt).ExecContext(ctx, params)
}

func (s *hookStmt) QueryContext(ctx context.Context, params []driver.NamedValue) (driver.Rows, error) {
	if err := s.h.run(s.text); err != nil {
		return nil, err
	}
	return as[driver.StmtQueryContext](s.Stmt).QueryContext(ctx, params)
}
