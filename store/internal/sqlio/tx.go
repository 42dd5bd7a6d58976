package sqlio

import (
	"context"
	"database/sql"
)

// Execer runs one statement of a transaction.
type Execer interface {
	Exec(ctx context.Context, text string, params []any) (sql.Result, error)
	Query(ctx context.Context, text string, params []any) (*sql.Rows, error)
	// Later runs a statement of which nothing is wanted but what want says. It may be run as
	// late as with the commit, which fails then.
	Later(ctx context.Context, text string, params []any, want Want) error
}

// Want is how many rows a statement must change; the zero value takes any number.
type Want struct {
	Rows int64
	Else error // the error if it changes another number; nil: any number will do
}

// Check returns the error of a statement that changed n rows.
func (w Want) Check(n int64) error {
	if n == w.Rows {
		return nil
	}
	return w.Else
}

// Tx is a transaction under way.
type Tx struct {
	Execer
	Texts *TextCache
	// Ratchet is set by writes whose loss would let an index be used twice.
	Ratchet bool
}

// Do runs a statement at once, and returns how many rows it changed. Where the number does not
// matter, or is known before, use Run or Must: they cost no round trip.
func (t *Tx) Do(ctx context.Context, text string, params ...any) (int64, error) {
	res, err := t.Exec(ctx, text, params)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Run runs a statement, now or later in the transaction.
func (t *Tx) Run(ctx context.Context, text string, params ...any) error {
	return t.Later(ctx, text, params, Want{})
}

// Must runs a statement, now or later in the transaction, which must change so many rows.
func (t *Tx) Must(ctx context.Context, want Want, text string, params ...any) error {
	return t.Later(ctx, text, params, want)
}

// RunList runs a statement for a list of items, in as few statements as its size allows, now
// or later in the transaction.
func (t *Tx) RunList(ctx context.Context, q *ListStatement, fixed, items []any) error {
	return q.Each(t.Texts, fixed, items, func(text string, params []any) error {
		return t.Later(ctx, text, params, Want{})
	})
}

// MustList is like RunList. It fails with miss unless every item changes one row.
func (t *Tx) MustList(ctx context.Context, miss error, q *ListStatement, fixed, items []any) error {
	return q.Each(t.Texts, fixed, items, func(text string, params []any) error {
		return t.Later(ctx, text, params, Want{int64((len(params) - q.Fixed) / q.Width), miss})
	})
}

// Rows runs a query and calls each for its rows.
func (t *Tx) Rows(ctx context.Context, text string, params []any, each func(*sql.Rows) error) error {
	rows, err := t.Query(ctx, text, params)
	return scanAll(rows, err, each)
}
