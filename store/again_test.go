package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"e2ee-proxy/store/internal/sqlio"
)

// conflicted is a database in which the first transactions meet others and are rolled back.
type conflicted struct {
	conflicts int
	began     []time.Time
}

func (c *conflicted) Connect(context.Context) (driver.Conn, error) { return conflictedConn{c}, nil }
func (c *conflicted) Driver() driver.Driver                        { return nil }

type conflictedConn struct{ *conflicted }

func (conflictedConn) Prepare(string) (driver.Stmt, error) {
	return nil, errors.New("nothing to prepare")
}
func (conflictedConn) Close() error { return nil }

func (c conflictedConn) Begin() (driver.Tx, error) {
	c.began = append(c.began, time.Now())
	return c, nil
}

func (c conflictedConn) Commit() error {
	if len(c.began) <= c.conflicts {
		return &pgconn.PgError{Code: pgSerialization, SeverityUnlocalized: "ERROR"}
	}
	return nil
}

func (conflictedConn) Rollback() error { return nil }

// A transaction that met another is repeated after a growing pause, which differs from the
// other's, and not for ever; whoever leaves is not kept by it.
func TestConflictsAreRepeatedAfterPauses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name            string
		conflicts, want int
		leaves          time.Duration // zero: does not
		fails           bool
	}{
		{"none", 0, 1, 0, false},
		{"some", pgTries - 1, pgTries, 0, false},
		{"always", 1000, pgTries, 0, true},
		{"left", 1000, 1, time.Microsecond, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := &conflicted{conflicts: test.conflicts}
			db := sql.OpenDB(c)
			defer db.Close()
			ctx := t.Context()
			if test.leaves > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, test.leaves)
				defer cancel()
			}
			w := &pgWriter{db: db, lease: newLease(0, false)}
			err := w.run(ctx, func(context.Context, *sqlio.Tx) error { return nil })
			if (err != nil) != test.fails || len(c.began) != test.want {
				t.Errorf("%s: %d tries, %v", test.name, len(c.began), err)
			}
			if test.leaves > 0 && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", test.name, err)
			}
			for i := 1; i < len(c.began); i++ {
				whole := min(conflictPauses().First<<(i-1), conflictPauses().Last)
				if pause := c.began[i].Sub(c.began[i-1]); pause > whole || pause < whole*3/4-time.Microsecond {
					t.Errorf("%s: pause %d was %s, not up to a quarter less than %s", test.name, i, pause, whole)
				}
			}
		})
	}
}

// The lease of a process that died is looked at again when it has run out, not before and
// not much later; that of one that lives is looked at a few times, and then not any more.
func TestAwaitLease(t *testing.T) {
	t.Parallel()
	const lasts = 12 * time.Second
	for _, test := range []struct {
		name     string
		dies     time.Duration // when the lease runs out; zero: it is renewed
		from, to time.Duration // when the waiting ends
		looks    int           // at most
	}{
		{"soon", time.Second, time.Second, time.Second + lasts/100, 3},
		{"later", 10 * time.Second, 10 * time.Second, 10*time.Second + lasts/100, 6},
		{"renewed", 0, lasts, lasts + 2*leaseSlack + lasts/leaseBeats, 7},
	} {
		synctest.Test(t, func(t *testing.T) {
			db := &DB{lease: newLease(lasts, false)}
			start, looks, told := time.Now(), 0, 0
			err := db.awaitLease(t.Context(), func(error) { told++ }, func() error {
				looks++
				left := test.dies - time.Since(start)
				if test.dies == 0 {
					left = lasts
				}
				if left <= 0 {
					return nil
				}
				return &heldError{left: left}
			})
			if took := time.Since(start); took < test.from || took > test.to || looks > test.looks {
				t.Errorf("%s: %d looks in %s, %v", test.name, looks, took, err)
			}
			if told != 1 || (err != nil) != (test.dies == 0) {
				t.Errorf("%s: told %d times, %v", test.name, told, err)
			}
			if err != nil && !errors.Is(err, ErrInUse) {
				t.Errorf("%s: %v", test.name, err)
			}
		})
	}
}

// Whoever is told to stop while it waits for a lease stops at once.
func TestAwaitLeaseEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := &DB{lease: newLease(0, false)}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := db.awaitLease(ctx, nil, func() error { return &heldError{left: time.Hour} })
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrInUse) || time.Since(start) != 100*time.Millisecond {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}
