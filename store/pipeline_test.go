package store

import (
	"context"
	"errors"
	"testing"

	"e2ee-proxy/store/internal/sqlio"
)

// A transaction's statements go to PostgreSQL together with its commit. If one of them changed
// what it must not, or nothing where it must, or the fence refuses, the commit that was sent along
// must not happen, nothing of the transaction may stay, and the connection goes on to be of use.
func TestNothingIsCommittedAfterAStatementThatMissed(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		o := options(t, url)
		o.MaxConns = 1
		db := open(t, o)
		acct, dev := device(t, db, alice, "A")
		errMiss := errors.New("another number of rows")
		const update = "UPDATE devices SET last_seq = last_seq WHERE id = $1"
		for what, row := range map[string]struct {
			id   int64
			want sqlio.Want
			err  error
		}{
			"none where one must be": {-1, sqlio.Want{Rows: 1, Else: errMiss}, errMiss},
			"one where none may be":  {dev.ID, sqlio.Want{Rows: 0, Else: errMiss}, errMiss},
			"any number":             {-1, sqlio.Want{}, nil},
			"as many as must be":     {dev.ID, sqlio.Want{Rows: 1, Else: errMiss}, nil},
		} {
			b := &saver{db: db, acct: acct, dev: dev.ID}
			b.collect(oneRoom("!r"))
			err := db.writer.run(t.Context(), func(ctx context.Context, s *sqlio.Tx) error {
				if err := b.run(ctx, s); err != nil {
					return err
				}
				return s.Must(ctx, row.want, update, row.id)
			})
			if !errors.Is(err, row.err) || errors.Is(err, ErrUnsure) {
				t.Errorf("%s: got %v, want %v", what, err, row.err)
			}
			want := 0
			if row.err == nil {
				want = 1
			}
			same(t, what+": rooms", roomCount(t, db, acct, dev.ID), want)
			raw(t, db, "DELETE FROM rooms")
		}
	})
}
