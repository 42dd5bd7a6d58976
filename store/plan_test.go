package store

import (
	"database/sql"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStatementsUseTheirIndex runs every reader and writer and asks SQLite how it would
// run each statement: none may walk through a table or sort one, except those that are
// for starts and maintenance.
func TestStatementsUseTheirIndex(t *testing.T) {
	t.Parallel()
	var h hook
	o := options(t, liteURL(t))
	o.Wrap = h.wrap
	db := open(t, o)
	acct, dev := device(t, db, alice, "A")
	c := everything()
	c.Device = &dev
	h.watch(nil)
	save(t, db, acct, dev.ID, c)
	save(t, db, acct, dev.ID, rest())
	checkEverythingRuns(t, db, acct, dev)
	for _, prune := range []func() (int64, error){
		func() (int64, error) { return db.PruneSeen(t.Context(), time.Time{}) },
		func() (int64, error) { return db.PrunePending(t.Context(), time.Time{}) },
		func() (int64, error) { return db.PruneTransactions(t.Context(), time.Time{}) },
		func() (int64, error) { return db.TrimPending(t.Context(), acct, dev.ID, 0) },
		func() (int64, error) { return db.TruncateAudit(t.Context(), at(1<<20)) },
	} {
		must[int64](t)(prune())
	}
	must[int64](t)(db.PruneShares(t.Context()))
	must[[]AccountOverview](t)(db.AccountsAfter(t.Context(), 0, 1))
	must[[]ExceptionOverview](t)(db.ExceptionsAfter(t.Context(), 0, "", "", 1))
	must[[]WarningOverview](t)(db.WarningsAfter(t.Context(), 0, "", 1))
	must[int](t)(db.RotateMasterKey(t.Context()))

	known := make(map[string]bool)
	for _, s := range h.statements() {
		verb, _, _ := strings.Cut(s, " ")
		if known[s] || verb == "BEGIN" || verb == "COMMIT" || strings.Contains(s, " FROM meta ") || strings.Contains(s, "UPDATE meta ") ||
			strings.Contains(s, "UPDATE restore_mark ") {
			continue
		}
		known[s] = true
		checkPlan(t, db, s)
	}
	if len(known) < 50 {
		t.Errorf("only %d statements were looked at", len(known))
	}
}

func checkPlan(t *testing.T, db *DB, statement string) {
	t.Helper()
	params := make([]any, strings.Count(statement, "$")+strings.Count(statement, "?")) // at least as many as are needed
	err := db.reader.Query(t.Context(), "EXPLAIN QUERY PLAN "+statement, params, func(r *sql.Rows) error {
		var a, b, c int
		var detail string
		if err := r.Scan(&a, &b, &c, &detail); err != nil {
			return err
		}
		// The list in the statement itself may be walked through; the few Olm sessions of a
		// key and items of an outbox may be sorted; a rotation looks at every account.
		list := strings.HasSuffix(detail, "CONSTANT ROW") || strings.HasSuffix(detail, "VALUES CLAUSE") ||
			slices.Contains([]string{"SCAN wrapped", "SCAN stored", "SCAN owned", "SCAN wanted"}, detail)
		short := strings.Contains(statement, "FROM olm_sessions") || strings.Contains(statement, "FROM outbox")
		if strings.HasPrefix(detail, "SCAN") && !list && statement != selectForeign && statement != selectStale && statement != selectStaleLists ||
			strings.Contains(detail, "TEMP B-TREE") && !short {
			t.Errorf("%s\n\t%s", statement, detail)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
