package store

import (
	"database/sql"
	"testing"
	"time"
)

// rowCounts counts the rows of every table.
func rowCounts(t *testing.T, db *DB) map[string]int {
	t.Helper()
	tables := "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
	if db.dialect.SharedPool {
		tables = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
	}
	counts := make(map[string]int)
	err := db.reader.Query(t.Context(), tables, nil, func(r *sql.Rows) error {
		var name string
		err := r.Scan(&name)
		counts[name] = 0
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range counts {
		err := db.reader.Query(t.Context(), "SELECT COUNT(*) FROM "+name, nil, func(r *sql.Rows) error {
			var n int
			err := r.Scan(&n)
			counts[name] = n
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return counts
}

// await waits for what other goroutines bring about.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline, again := time.NewTimer(30*time.Second), time.NewTicker(time.Millisecond)
	defer deadline.Stop()
	defer again.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("%s did not come about", what)
		case <-again.C:
		}
	}
}
