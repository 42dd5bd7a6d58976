package store

import (
	"context"
	"fmt"
)

// prune deletes what a statement names and tells how many rows that was.
func (db *DB) prune(ctx context.Context, what, statement string, params ...any) (int64, error) {
	var n int64
	err := db.writer.run(ctx, func(ctx context.Context, t *tx) error {
		var err error
		n, err = t.do(ctx, statement, params...)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("prune %s: %w", what, err)
	}
	return n, nil
}
