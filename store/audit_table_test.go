package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"e2ee-proxy/internal/audit"
)

func auditNote(i int) *audit.Record {
	return &audit.Record{At: at(i), Kind: audit.KindSecret, Account: "@alice:hs", Secret: fmt.Sprint(i)}
}

// auditNotes reads the Secret of all records.
func auditNotes(t *testing.T, db *DB) string {
	t.Helper()
	var all []string
	for r, err := range db.AuditLog().Records(t.Context(), 0) {
		if err != nil || r.Err != nil {
			t.Fatal(err, r.Err)
		}
		one := must[*audit.Record](t)(audit.Decode(r.Data))
		all = append(all, one.Secret)
	}
	return strings.Join(all, " ")
}

func verified(t *testing.T, db *DB, kept ...audit.Checkpoint) (audit.Report, *audit.TamperedError) {
	t.Helper()
	report, err := audit.Verify(t.Context(), db.AuditLog(), db.AuditSigner(), kept)
	var bad *audit.TamperedError
	if err != nil && !errors.As(err, &bad) {
		t.Fatal(err)
	}
	return report, bad
}

func checkpoint(t *testing.T, db *DB) audit.Checkpoint {
	t.Helper()
	text := must[string](t)(db.AuditLog().Checkpoint(t.Context()))
	return must[audit.Checkpoint](t)(db.AuditSigner().Read([]byte(text)))
}

// TestAuditLog: records are appended in the order of the transactions, also when several
// are made at once, survive the account and the process, and a database that does not write
// the log writes none.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		o := options(t, url)
		db := open(t, o)
		same(t, "empty", must[audit.Head](t)(db.AuditLog().Head(t.Context())).Size, int64(0))
		acct, dev := device(t, db, alice, "A")
		for i := range 5 {
			save(t, db, acct, dev.ID, &Changes{Audit: []*audit.Record{auditNote(2 * i), auditNote(2*i + 1)}})
		}
		must[int](t)(0, db.AppendAudit(t.Context(), auditNote(10)))
		first := checkpoint(t, db)
		same(t, "in order", auditNotes(t, db), "0 1 2 3 4 5 6 7 8 9 10")

		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if err := db.Save(t.Context(), acct, dev.ID, &Changes{Audit: []*audit.Record{auditNote(100 + i)}}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		must[int](t)(0, db.DeleteAccount(t.Context(), acct))
		report, bad := verified(t, db, first)
		if bad != nil || report.Size != 31 {
			t.Fatalf("%+v, %v", report, bad)
		}
		closeDB(t, db)
		o.Audit = false
		db = open(t, o)
		must[int](t)(0, db.AppendAudit(t.Context(), auditNote(11)))
		bob, bobs := device(t, db, "@bob:hs", "A")
		save(t, db, bob, bobs.ID, &Changes{Audit: []*audit.Record{auditNote(12)}})
		if report, bad = verified(t, db, first, checkpoint(t, db)); bad != nil || report.Size != 31 || db.Audits() {
			t.Errorf("%+v, %v", report, bad)
		}
	})
}

// TestAuditPolicy: the policy is recorded when it is another one, and that the log was
// switched off too, once there is a log.
func TestAuditPolicy(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		o := options(t, url)
		policy := func(enabled bool, version string) string {
			o.Audit = enabled
			db := open(t, o)
			defer closeDB(t, db)
			must[int](t)(0, db.AuditPolicy(t.Context(), &audit.Record{At: at(1), Kind: audit.KindPolicy, Policy: version, Secret: version}))
			return auditNotes(t, db)
		}
		same(t, "never switched on", policy(false, "off"), "")
		same(t, "the first", policy(true, "a"), "a")
		same(t, "the same", policy(true, "a"), "a")
		same(t, "another", policy(true, "b"), "a b")
		same(t, "switched off", policy(false, "off"), "a b off")
		same(t, "still off", policy(false, "off"), "a b off")
		same(t, "back again", policy(true, "b"), "a b off b")
	})
}

// TestAuditIsOneWithTheDecision: a record that cannot be written fails the decision (a full
// disk stops sharing, not logging), and a decision that fails leaves no record.
func TestAuditIsOneWithTheDecision(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		var h hook
		o := options(t, url)
		o.Wrap = h.wrap
		db := open(t, o)
		acct, dev := device(t, db, alice, "A")
		full := errors.New("database or disk is full")
		share := func(i int) *Changes {
			return &Changes{Outbox: []OutboxItem{{TxnID: fmt.Sprint(i), EventType: "t", Body: []byte("{}")}}, Audit: []*audit.Record{auditNote(i)}}
		}
		save(t, db, acct, dev.ID, share(0))
		for _, verb := range []string{"INSERT INTO audit_records", "INSERT INTO audit_hashes", "UPDATE audit_head"} {
			h.watch(func(s string) error {
				if strings.HasPrefix(s, verb) {
					return full
				}
				return nil
			})
			if err := db.Save(t.Context(), acct, dev.ID, share(1)); !errors.Is(err, full) {
				t.Errorf("%s fails: %v", verb, err)
			}
		}
		h.watch(nil)
		if err := db.Save(t.Context(), acct, dev.ID+100, share(2)); !errors.Is(err, ErrNotFound) {
			t.Errorf("a decision of a device that is gone: %v", err)
		}
		same(t, "messages", len(must[[]OutboxItem](t)(db.Outbox(t.Context(), acct, dev.ID))), 1)
		if report, bad := verified(t, db); bad != nil || report.Size != 1 {
			t.Errorf("%+v, %v", report, bad)
		}
		save(t, db, acct, dev.ID, share(3))
		same(t, "goes on", auditNotes(t, db), "0 3")
	})
}

// TestTruncateAudit: what is old is removed under a signed checkpoint, and earlier
// checkpoints can still be checked.
func TestTruncateAudit(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		o := options(t, url)
		o.Now = func() time.Time { return at(1000) }
		db := open(t, o)
		day := func(n int) *audit.Record {
			r := auditNote(n)
			r.At = at(0).Add(time.Duration(n) * auditSlack)
			return r
		}
		for n := range 7 {
			must[int](t)(0, db.AppendAudit(t.Context(), day(n)))
		}
		kept := checkpoint(t, db)
		same(t, "nothing is old", must[int64](t)(db.TruncateAudit(t.Context(), at(0).Add(auditSlack))), int64(0))
		same(t, "removed", must[int64](t)(db.TruncateAudit(t.Context(), at(0).Add(3*auditSlack))), int64(3))
		same(t, "once", must[int64](t)(db.TruncateAudit(t.Context(), at(0).Add(3*auditSlack))), int64(0))
		same(t, "left", auditNotes(t, db), "3 4 5 6 ")
		must[int](t)(0, db.AppendAudit(t.Context(), day(8)))
		report, bad := verified(t, db, kept)
		if bad != nil || report.KeptFrom != 3 || report.Size != 9 || !report.RemovedAt.Equal(at(1000)) {
			t.Errorf("%+v, %v", report, bad)
		}
		same(t, "all", must[int64](t)(db.TruncateAudit(t.Context(), at(0).Add(100*auditSlack))), int64(6))
		if report, bad = verified(t, db, kept); bad != nil || report.KeptFrom != 9 {
			t.Errorf("%+v, %v", report, bad)
		}
		// What was removed is not to be had back by moving the border.
		raw(t, db, "UPDATE audit_head SET kept_from = 8")
		if _, bad = verified(t, db); bad == nil {
			t.Error("nobody has noticed that the border was moved")
		}
	})
}

// Attack: somebody who can write to the database, and does not have the master key, changes
// the log. The first wrong record is named; only that the log was cut, and put back as it
// was, needs a checkpoint to be seen.
func TestTheLogInTheDatabaseShowsTampering(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		for name, tc := range map[string]struct {
			do    []string
			first int64
		}{
			"a record dropped":  {[]string{"DELETE FROM audit_records WHERE seq = 4"}, 4},
			"the first dropped": {[]string{"DELETE FROM audit_records WHERE seq = 0"}, 0},
			"two exchanged, with their times": {[]string{
				"UPDATE audit_records SET seq = 100 WHERE seq = 2", "UPDATE audit_records SET seq = 2 WHERE seq = 6", "UPDATE audit_records SET seq = 6 WHERE seq = 100",
			}, 2},
			"a record put in the place of another": {[]string{
				"UPDATE audit_records SET sealed_record = (SELECT o.sealed_record FROM audit_records o WHERE o.seq = 1), at = (SELECT o.at FROM audit_records o WHERE o.seq = 1) WHERE seq = 5",
			}, 5},
			"another time":             {[]string{"UPDATE audit_records SET at = at + 1 WHERE seq = 3"}, 3},
			"a hash":                   {[]string{fmt.Sprintf("UPDATE audit_hashes SET hash = (SELECT o.hash FROM audit_hashes o WHERE o.idx = 0) WHERE idx = %d", audit.LeafIndex(5))}, 5},
			"a hash dropped":           {[]string{fmt.Sprintf("DELETE FROM audit_hashes WHERE idx = %d", audit.LeafIndex(5))}, 5},
			"a hash cut":               {[]string{fmt.Sprintf("UPDATE audit_hashes SET hash = %s WHERE idx = %d", map[bool]string{true: "x'01'", false: `'\x01'`}[strings.HasPrefix(url, "sqlite")], audit.LeafIndex(5))}, 5},
			"the size":                 {[]string{"UPDATE audit_head SET size = 5"}, -1},
			"the border of removal":    {[]string{"UPDATE audit_head SET kept_from = 5", "DELETE FROM audit_records WHERE seq < 5"}, -1},
			"the head was removed":     {[]string{"DELETE FROM audit_head"}, -1},
			"the head of a new log":    {[]string{"UPDATE audit_head SET size = 0, sealed_state = " + map[bool]string{true: "x''", false: "''"}[strings.HasPrefix(url, "sqlite")]}, -1},
			"the head of an empty log": {[]string{"UPDATE audit_head SET size = 0"}, -1},
		} {
			db := open(t, options(t, fresh(t, url)))
			for i := range 8 {
				must[int](t)(0, db.AppendAudit(t.Context(), auditNote(i)))
			}
			for _, s := range tc.do {
				raw(t, db, s)
			}
			_, bad := verified(t, db)
			if bad == nil || tc.first >= 0 && bad.From != tc.first || tc.first < 0 && bad.To != 0 {
				t.Errorf("%s: %v, want record %d", name, bad, tc.first)
			}
		}
	})
}

// Attack: the log is put back to an older state of its own, while the proxy runs and while
// it does not. A checkpoint that was kept shows it, and a proxy that knows better writes
// nothing more, so it gives no key.
func TestTheLogIsPutBack(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		o := options(t, url)
		db := open(t, o)
		must[int](t)(0, db.AppendAudit(t.Context(), auditNote(0), auditNote(1)))
		old := column(t, db, "SELECT sealed_state FROM audit_head")[0]
		must[int](t)(0, db.AppendAudit(t.Context(), auditNote(2)))
		kept := checkpoint(t, db)
		raw(t, db, "UPDATE audit_head SET size = 2, sealed_state = $1", old)
		raw(t, db, "DELETE FROM audit_records WHERE seq >= 2")
		raw(t, db, fmt.Sprintf("DELETE FROM audit_hashes WHERE idx >= %d", audit.HashesOf(2)))
		if _, bad := verified(t, db); bad != nil {
			t.Errorf("this is a log as it once was: %v", bad)
		}
		if _, bad := verified(t, db, kept); bad == nil || bad.From != 2 || bad.To != 3 {
			t.Errorf("shorter than a checkpoint: %v", bad)
		}
		acct, dev := device(t, db, alice, "A")
		if err := db.Save(t.Context(), acct, dev.ID, &Changes{Audit: []*audit.Record{auditNote(9)}}); !errors.Is(err, errAuditShorter) {
			t.Errorf("a key is given by a proxy whose log was cut: %v", err)
		}
		closeDB(t, db)
		db = open(t, o)
		must[int](t)(0, db.AppendAudit(t.Context(), auditNote(7), auditNote(8)))
		if _, bad := verified(t, db, kept); bad == nil || bad.To != 3 {
			t.Errorf("the log leads to another one: %v", bad)
		}
	})
}

// BenchmarkAppendAudit is the cost of one more record in a transaction that is made anyway.
func BenchmarkAppendAudit(b *testing.B) {
	db := open(b, options(b, liteURL(b)))
	acct, dev := device(b, db, alice, "A")
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprintf("audit=%v", on), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c := &Changes{Outbox: []OutboxItem{{TxnID: "x", EventType: "t", Body: []byte("{}")}}}
				if on {
					c.Audit = []*audit.Record{auditNote(i)}
				}
				if err := db.Save(context.Background(), acct, dev.ID, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
