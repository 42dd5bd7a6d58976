package sqlio

import (
	"context"
	"database/sql"
)

// Execer runs one statement of a transaction.
type Execer interface {
	Exec(ctx context.Context, text string, params []any) (sql.Result, error)
	Query(ctx context.Context, text string, params []any) (*sql.Rows, error)
}

// Tx is a transaction under way.
type Tx struct {
	Execer
	Texts *TextCache
	// Ratchet is set by writes whose loss would let an index be used twice.
	Ratchet bool
}

// Do runs a statement and returns how many rows it changed.
func (t *Tx) Do(ctx context.Context, text string, params ...any) (int64, error) {
	res, err := t.Exec(ctx, text, params)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// List runs a statement for a list of items, in as few statements as its size allows, and
// returns how many rows they changed.
func (t *Tx) List(ctx context.Context, q *ListStatement, fixed, items []any) (int64, error) {
	var total int64
	err := q.Each(t.Texts, fixed, items, func(text string, params []any) error {
		n, err := t.Do(ctx, text, params...)
		total += n
		return err
	})
	return total, err
}

// Rows runs a query and calls each for its rows.
func (t *Tx) Rows(ctx context.Context, text string, params []any, each func(*sql.Rows) error) error {
	rows, err := t.Query(ctx, text, params)
	return scanAll(rows, err, each)
}
