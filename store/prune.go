package store

import (
	"context"
	"fmt"

	"e2ee-proxy/store/internal/sqlio"
)

// pruneBatch is how many rows one transaction deletes, so that nobody waits long for it.
// The statements have it as their LIMIT.
const pruneBatch = 1000

// prune repeats a statement that deletes up to pruneBatch rows until none are left, and
// returns how many were deleted.
func (db *DB) prune(ctx context.Context, what, statement string, params ...any) (int64, error) {
	var total int64
	for {
		var n int64
		err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
			var err error
			n, err = t.Do(ctx, statement, params...)
			return err
		})
		if err != nil {
			return total, fmt.Errorf("prune %s: %w", what, err)
		}
		total += n
		if n < pruneBatch {
			return total, nil
		}
	}
}
