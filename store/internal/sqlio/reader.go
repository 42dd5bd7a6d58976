package sqlio

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
)

// Reader runs queries on a pool of connections. With keep it keeps prepared statements,
// which SQLite needs to be fast; pgx does so by itself.
type Reader struct {
	DB   *sql.DB
	keep bool
	mu   sync.RWMutex
	kept map[string]*sql.Stmt
}

// NewReader returns a reader of a pool.
func NewReader(db *sql.DB, keep bool) *Reader {
	return &Reader{DB: db, keep: keep, kept: make(map[string]*sql.Stmt)}
}

// Query runs a query and calls each for its rows.
func (r *Reader) Query(ctx context.Context, text string, params []any, each func(*sql.Rows) error) error {
	if !r.keep {
		rows, err := r.DB.QueryContext(ctx, text, params...)
		return scanAll(rows, err, each)
	}
	s, err := r.prepare(ctx, text) //nolint:sqlclosecheck // kept until the pool is closed
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(ctx, params...)
	return scanAll(rows, err, each)
}

func (r *Reader) prepare(ctx context.Context, text string) (*sql.Stmt, error) {
	r.mu.RLock()
	s, ok := r.kept[text]
	r.mu.RUnlock()
	if ok {
		return s, nil
	}
	// Not under the lock: it waits for a connection. Two callers may prepare the same.
	s, err := r.DB.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if first, ok := r.kept[text]; ok {
		return first, s.Close() //nolint:sqlclosecheck // not used; the other one is kept
	}
	r.kept[text] = s
	return s, nil
}

// Close closes the statements and the connections.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.kept {
		if err := s.Close(); err != nil {
			return fmt.Errorf("close statement: %w", err)
		}
	}
	clear(r.kept)
	return r.DB.Close()
}

// scanAll calls each for rows, and closes them.
func scanAll(rows *sql.Rows, err error, each func(*sql.Rows) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // Err below returns what went wrong
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
