package store

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bare opens a database as an operator's tools do.
func bare(t *testing.T, url string) *sql.DB {
	t.Helper()
	kind, name := "pgx", url
	if strings.HasPrefix(url, "sqlite:") {
		kind, name = "sqlite", pathOf(url)
	}
	db, err := sql.Open(kind, name)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1) // settings of a session hold for all that follows
	return db
}

func do(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.ExecContext(context.WithoutCancel(t.Context()), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// dumpRows copies the rows of all tables; the result puts them back into the same tables.
func dumpRows(t *testing.T, url string) (putBack func()) {
	t.Helper()
	lite := strings.HasPrefix(url, "sqlite:")
	db := open(t, options(t, url))
	var tables []string
	for table := range rowCounts(t, db) {
		tables = append(tables, table)
	}
	slices.Sort(tables)
	closeDB(t, db)
	operator := bare(t, url)
	defer func() { _ = operator.Close() }()
	for _, table := range tables {
		do(t, operator, "CREATE TABLE dump_"+table+" AS SELECT * FROM "+table)
	}
	return func() {
		operator := bare(t, url)
		defer func() { _ = operator.Close() }()
		off := "SET session_replication_role = replica" // as pg_dump --disable-triggers does
		if lite {
			off = "PRAGMA foreign_keys = OFF"
		}
		do(t, operator, off)
		for _, table := range tables {
			do(t, operator, "DELETE FROM "+table, fmt.Sprintf("INSERT INTO %s SELECT * FROM dump_%s", table, table), "DROP TABLE dump_"+table)
		}
	}
}

// Attack 55 again: only the rows of yesterday's database are put back, with pg_dump
// --data-only and the like. Cluster, timeline, database and tables are the same, and there
// is no file beside them; still yesterday's ratchets must not be used.
func TestRowsPutBackAreARestore(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		use(t, url, 1)
		putBack := dumpRows(t, url)
		use(t, url, 2)
		checkRestored(t, url, false)
		putBack()
		checkOnce(t, url)
	})
}

// What a database does with rows by itself, or an administrator has it do, is no restore.
func TestMaintenanceOfPostgreSQLIsNotARestore(t *testing.T) {
	t.Parallel()
	url := postgres.Database(t)
	use(t, url, 1)
	operator := bare(t, url)
	do(t, operator, "VACUUM", "VACUUM FREEZE", "VACUUM FULL", "CLUSTER restore_mark USING restore_mark_pkey", "ANALYZE",
		"REINDEX TABLE restore_mark", "ALTER TABLE restore_mark SET (fillfactor = 50)", "VACUUM FULL restore_mark")
	if err := operator.Close(); err != nil {
		t.Fatal(err)
	}
	checkRestored(t, url, false)
	use(t, url, 2)
	checkRestored(t, url, false)
}

// A PostgreSQL server is set back to a snapshot of its machine: nothing in it tells. The file
// beside the master key, on the proxy's machine, does.
func TestPostgreSQLOlderThanItsMark(t *testing.T) {
	t.Parallel()
	url := postgres.Database(t)
	file := filepath.Join(t.TempDir(), "postgresql-mark")
	openMarked := func(file string) (restored string) {
		o := options(t, url)
		o.MarkFile = file
		db := open(t, o)
		defer closeDB(t, db)
		acct, err := db.Account(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Device(t.Context(), acct, "A"); err != nil {
			device(t, db, alice, "A")
		}
		db.renew(t.Context())
		return db.Restored()
	}
	setBack := func() {
		operator := bare(t, url)
		do(t, operator, "UPDATE lease SET beat = beat - 1")
		_ = operator.Close() // nothing is under way
	}
	elsewhere := filepath.Join(t.TempDir(), "postgresql-mark")
	for i, step := range []struct {
		what, file string
		setBack    bool
		want       bool
	}{
		{"made", file, false, false},
		{"again", file, false, false},
		{"set back", file, true, true},
		{"noticed once", file, false, false},
		{"on another machine", elsewhere, false, false},
		{"back on the first", file, false, false},
		{"without a file", "", false, false},
		{"set back on the other machine, whose file is older", elsewhere, false, false},
		{"set back once more", elsewhere, true, true},
	} {
		if step.setBack {
			setBack()
		}
		if got := openMarked(step.file); (got != "") != step.want {
			t.Errorf("%d, %s: taken for restored: %q, want %v", i, step.what, got, step.want)
		}
	}
}
