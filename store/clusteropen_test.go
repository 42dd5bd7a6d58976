package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/audit"
	"e2ee-proxy/store/internal/sqlio"
)

// A newer program would change the tables under those that run. It refuses as long as they do
// and says which they are; the older one refuses afterwards.
func TestReplicasOfTwoVersions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	older := replica(t, url, "http://a")
	acct, dev := device(t, older, alice, "A")
	o := options(t, url)
	o.Cluster, o.newer = &Cluster{}, 1
	if db, err := Open(ctx, o); err == nil || !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), thisProcess()) ||
		!strings.Contains(err.Error(), "stop these first") {
		t.Errorf("beside an older one: %v, %v", db, err)
	}
	save(t, older, acct, dev.ID, everything())
	closeDB(t, older)
	newer := open(t, o)
	same(t, "version", must[int64](t)(newer.readVersion(ctx)), older.latest()+1)
	o.newer = 0
	if db, err := Open(ctx, o); !errors.Is(err, ErrNewer) {
		t.Errorf("the older one afterwards: %v, %v", db, err)
	}
}

// Two clusters with different master keys are set up with one database by mistake. The second
// one would make accounts that the first cannot open, and the other way round. It is refused,
// and changes nothing.
func TestClustersWithDifferentMasterKeys(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	a := replica(t, url, "http://a")
	acct, dev := device(t, a, alice, "A")
	before := rowCounts(t, a)
	for what, keys := range map[string]MasterKeys{
		"another key":                      {Current: testKey(t, 2)},
		"another key, with ours as an old": {Current: testKey(t, 2), Old: []MasterKey{testKey(t, 1)}},
		"none":                             {},
	} {
		o := options(t, url)
		o.Cluster, o.MasterKeys = &Cluster{}, keys
		if db, err := Open(ctx, o); !errors.Is(err, ErrMasterKey) {
			t.Errorf("%s: %v, %v", what, db, err)
		}
	}
	same(t, "rows", rowCounts(t, a), before)
	save(t, a, acct, dev.ID, everything())
}

// The master key of a cluster is changed one replica at a time, without a stop: first all know
// the new one, then all use it. What would leave one without the key it needs is refused.
func TestMasterKeyOfAClusterIsRotated(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	keys := func(current byte, old ...byte) func(*Options) {
		return func(o *Options) {
			o.MasterKeys = MasterKeys{Current: testKey(t, current)}
			for _, n := range old {
				o.MasterKeys.Old = append(o.MasterKeys.Old, testKey(t, n))
			}
		}
	}
	a, b := replica(t, url, "http://a", keys(1)), replica(t, url, "http://b", keys(1))
	claim(t, a, alice)
	next := a.main
	a.main = testKey(t, 2) // as if it had been let in
	if _, err := a.RotateMasterKey(ctx); !errors.Is(err, ErrMasterKey) || !strings.Contains(err.Error(), thisProcess()) {
		t.Errorf("rotated while others lack the key: %v", err)
	}
	a.main = next
	closeDB(t, a)
	a = replica(t, url, "http://a", keys(1, 2))
	closeDB(t, b)
	b = replica(t, url, "http://b", keys(1, 2))
	mine := claim(t, b, "@bob:hs")
	closeDB(t, a)
	a = replica(t, url, "http://a", keys(2, 1))
	same(t, "rotated", must[int](t)(a.RotateMasterKey(ctx)), 2)
	// The other one goes on, with what it has and with what it reads now.
	dev := must[Device](t)(b.CreateDevice(ctx, mine, Device{DeviceID: "B"}))
	save(t, b, mine, dev.ID, everything())
	claim(t, b, alice)
	claim(t, b, "@new:hs")
	closeDB(t, b)
	o := options(t, url)
	o.Cluster = &Cluster{}
	if db, err := Open(ctx, o); !errors.Is(err, ErrMasterKey) {
		t.Errorf("with the former key alone: %v, %v", db, err)
	}
	b = replica(t, url, "http://b", keys(2, 1))
	same(t, "rotated by the last one", must[int](t)(b.RotateMasterKey(ctx)), 1)
	same(t, "keys in use", must[[]string](t)(b.MasterKeysInUse(ctx)), []string{testKey(t, 2).ID()})
}

// A database that was restored is opened by a replica while others run that have not noticed:
// what they have in memory is of another time. They write nothing any more.
func TestRestoreEndsAllReplicas(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	a := replica(t, url, "http://a")
	acct, dev := device(t, a, alice, "A")
	save(t, a, acct, dev.ID, everything())
	raw(t, a, "UPDATE restore_mark SET place = 'elsewhere'")
	b := replica(t, url, "http://b")
	if b.Restored() == "" {
		t.Fatal("not taken for restored")
	}
	if err := a.Save(ctx, acct, dev.ID, oneRoom("!r")); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the other one wrote: %v", err)
	}
	mine := claim(t, b, alice)
	if _, err := b.OutboundSession(ctx, mine, dev.ID, "!r1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a session from before: %v", err)
	}
	save(t, b, mine, dev.ID, oneRoom("!r"))
	c := replica(t, url, "http://c")
	same(t, "restored for the third", c.Restored(), "")
	save(t, b, mine, dev.ID, oneRoom("!r2"))
}

// The mark beside the master key counts for all replicas together: one that was away while the
// others went on knows an older database from a newer one.
func TestMarkOfACluster(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	marked := func(o *Options) { o.MarkFile = filepath.Join(t.TempDir(), "mark") }
	file := ""
	a := replica(t, url, "http://a", marked, func(o *Options) { file = o.MarkFile })
	again := func(o *Options) { o.MarkFile = file }
	for range 3 {
		a.renew(ctx)
	}
	beat := string(column(t, a, "SELECT beat::text FROM lease")[0])
	closeDB(t, a)
	b := replica(t, url, "http://b", marked)
	for range 3 {
		b.renew(ctx)
	}
	a = replica(t, url, "http://a", again)
	same(t, "after others went on", a.Restored(), "")
	closeDB(t, a)
	closeDB(t, b)
	o := options(t, url)
	o.MarkFile = file
	single := open(t, o)
	same(t, "as a single process", single.Restored(), "")
	raw(t, single, "UPDATE lease SET beat = "+beat+" - 1")
	closeDB(t, single) // before it notices
	a = replica(t, url, "http://a", again)
	if a.Restored() == "" {
		t.Error("an older database was not noticed")
	}
}

// A cluster was killed as a whole, and its database is used by a single process from then on;
// one of the replicas was only stopped. It must not write, although nobody took its account.
func TestSingleProcessAfterACluster(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	a := replica(t, url, "http://a")
	acct, dev := device(t, a, alice, "A")
	dies(t, a)
	single := open(t, options(t, url))
	mine := must[*Account](t)(single.LookupAccount(ctx, alice))
	save(t, single, mine, dev.ID, everything())
	if err := a.Save(ctx, acct, dev.ID, oneRoom("!r")); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("a stopped replica wrote: %v", err)
	}
	same(t, "devices for the rounds", count(t, single), 1)
	raw(t, single, "UPDATE lease SET expires_at = 0")
	b := replica(t, url, "http://b")
	if err := single.Save(ctx, mine, dev.ID, oneRoom("!r")); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the process whose lease has ended wrote: %v", err)
	}
	save(t, b, claim(t, b, alice), dev.ID, rest())
}

// Replicas append to one audit log, side by side. It has every record once, in an order, and
// is not taken for tampered with because others append.
func TestReplicasShareTheAuditLog(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	all := []*DB{replica(t, url, "http://a"), replica(t, url, "http://b")}
	const each = 25
	var writers sync.WaitGroup
	for n, db := range all {
		user := id.UserID(fmt.Sprintf("@u%d:hs", n))
		acct, dev := device(t, db, user, "A")
		for range 2 {
			writers.Go(func() {
				for range each {
					err := db.Save(ctx, acct, dev.ID, &Changes{Audit: []*audit.Record{{At: at(1), Kind: audit.KindSecret, Secret: "x", Account: user.String()}}})
					if err != nil {
						t.Error(err)
					}
					if err := db.AppendAudit(ctx, &audit.Record{At: at(2), Kind: audit.KindSecret, Secret: "y"}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	writers.Wait()
	for _, db := range all {
		head := must[audit.Head](t)(db.AuditLog().Head(ctx))
		same(t, "records", head.Size, int64(len(all)*2*each*2))
		if _, bad := verified(t, db); bad != nil {
			t.Error(bad)
		}
	}
	if n := must[int64](t)(all[0].TruncateAudit(ctx, time.Now().Add(1000*24*time.Hour))); n == 0 {
		t.Error("nothing was removed")
	}
	if err := all[1].AppendAudit(ctx, &audit.Record{At: at(3), Kind: audit.KindSecret, Secret: "z"}); err != nil {
		t.Error(err)
	}
}

// That a room is encrypted is known to all replicas at once: no memory says otherwise.
func TestReplicasKnowEncryptedRooms(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	a, b := replica(t, url, "http://a"), replica(t, url, "http://b")
	room := id.RoomID("!r:hs")
	same(t, "before", len(must[map[id.RoomID]EncryptedRoom](t)(b.EncryptedRooms(ctx, []id.RoomID{room}))), 0)
	if err := a.NoteEncryptedRoom(ctx, EncryptedRoom{RoomID: room, Algorithm: "m.megolm.v1.aes-sha2", Since: at(1)}); err != nil {
		t.Fatal(err)
	}
	same(t, "afterwards", len(must[map[id.RoomID]EncryptedRoom](t)(b.EncryptedRooms(ctx, []id.RoomID{room}))), 1)
}

// 10,000 accounts are taken over by one statement, so that a replica that starts is ready at
// once. One whose key is damaged does not keep the others from it.
func TestOrphansInOneStatement(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var h hook
	url := postgres.Database(t)
	db := replica(t, url, "http://a", func(o *Options) { o.Wrap = h.wrap })
	mine := claim(t, db, alice)
	const users = 10_000
	makeAccounts(t, db, users)
	raw(t, db, "UPDATE accounts SET sealed_key = '' WHERE user_id = '@u7:hs'")
	h.watch(nil)
	began := time.Now()
	accts, err := db.ClaimOrphans(ctx, 2*users)
	took := time.Since(began)
	same(t, "statements", h.statements(), []string{"BEGIN", takeOrphans, "COMMIT"})
	if !errors.Is(err, ErrSealed) || len(accts) != users-1 {
		t.Errorf("%d accounts, %v", len(accts), err)
	}
	same(t, "owned", len(column(t, db, "SELECT '1' FROM accounts WHERE owner <> ''")), users+1)
	if took > 10*time.Second { // a bound for a machine that does other things; see the benchmark
		t.Errorf("it took %s", took)
	}
	if db.owned.of(alice) != mine {
		t.Error("what was ours before is another one")
	}
	h.watch(nil)
	same(t, "taken again", len(must[[]*Account](t)(db.ClaimOrphans(ctx, 2*users))), 0)
	if err := db.Release(ctx, accts...); err != nil {
		t.Fatal(err)
	}
	if n := len(h.statements()); n > 20 {
		t.Errorf("giving them back took %d statements", n)
	}
	same(t, "taken after the release", len(must[[]*Account](t)(db.ClaimOrphans(ctx, 2*users))), users-1)
}

// makeAccounts makes accounts that nobody has.
func makeAccounts(tb testing.TB, db *DB, n int) {
	tb.Helper()
	var p sqlio.Args
	for i := range n {
		a := db.newAccountArgs(id.UserID(fmt.Sprintf("@u%d:hs", i)))
		p.Vals = append(p.Vals, a.Vals...)
	}
	insert := &sqlio.ListStatement{Head: "INSERT INTO accounts (user_id, master_key_id, sealed_key, created_at) VALUES ", Item: "(?, ?, ?, ?)", Width: 4}
	err := db.writer.run(tb.Context(), func(ctx context.Context, t *sqlio.Tx) error {
		return t.RunList(ctx, insert, nil, p.Vals)
	})
	if err != nil {
		tb.Fatal(err)
	}
}
