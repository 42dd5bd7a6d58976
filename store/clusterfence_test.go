package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// A standby takes over that lacks the latest change of owner, and a pooler hides it: the
// sessions of the proxies go on. A replica that was stopped finds its old epoch in the
// database, and would go on with a ratchet that the next owner has used. The timeline counts
// before the epoch: it writes nothing and ends.
func TestTimelineCountsBeforeEpoch(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for what, open := range map[string]func(*testing.T) *DB{
		"replica":            func(t *testing.T) *DB { t.Helper(); return replica(t, postgres.Database(t), "http://a") },
		"the only process":   func(t *testing.T) *DB { t.Helper(); return open(t, options(t, postgres.Database(t))) },
		"timeline not shown": func(t *testing.T) *DB { t.Helper(); return replica(t, postgres.Database(t), "http://a") },
	} {
		db := open(t)
		acct, dev := device(t, db, alice, "A")
		if what == "timeline not shown" {
			db.lease.timeline, db.lease.server = "", "-/-"
			save(t, db, acct, dev.ID, everything())
			continue
		}
		if db.lease.timeline == "" {
			t.Fatalf("%s: the timeline is not known", what)
		}
		save(t, db, acct, dev.ID, everything())
		db.lease.timeline, db.lease.server = "00000009", "-/00000009"
		before := rowCounts(t, db)
		for _, write := range []func() error{
			func() error { return db.Save(ctx, acct, dev.ID, oneRoom("!r")) },
			func() error { _, err := db.PruneSeen(ctx, time.Now()); return err },
			func() error { _, err := db.Claim(ctx, "@new:hs"); return err },
		} {
			if err := write(); !errors.Is(err, ErrLeaseLost) || !strings.Contains(err.Error(), lostWithAServer) {
				t.Errorf("%s: got %v", what, err)
			}
		}
		same(t, "rows", rowCounts(t, db), before)
	}
}

// The database is put back to an older state while replicas run: memory is ahead of it. The
// next write of any of them finds its beat gone, and so does the next renewal, without a write.
func TestSetBackUnderACluster(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for what, c := range map[string]struct {
		setBack, says string
		writes        bool // whether a write notices
	}{
		"an older row":     {"UPDATE replicas SET beat = beat - 1", lostByASetBack, true},
		"an older cluster": {"UPDATE lease SET beat = beat - 1", lostByASetBack, false},
		"before it joined": {"DELETE FROM replicas", lostItsRow, true},
	} {
		url := postgres.Database(t)
		a, b := replica(t, url, "http://a"), replica(t, url, "http://b")
		acct, dev := device(t, a, alice, "A")
		b.renew(ctx)
		a.renew(ctx)
		raw(t, a, c.setBack)
		if c.writes {
			if err := a.Save(ctx, acct, dev.ID, oneRoom("!r")); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("%s: a write: %v", what, err)
			}
			if _, err := b.ClaimOrphans(ctx, 10); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("%s: a claim: %v", what, err)
			}
		}
		a.renew(ctx)
		if _, err := a.Claim(ctx, alice); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("%s: what was its own is still: %v", what, err)
		}
		if owner, err := a.Owner(ctx, alice); !errors.Is(err, ErrLeaseLost) || owner.State != OwnerUnknown {
			t.Errorf("%s: it says that it has it: %v, %v", what, owner, err)
		}
		if err := a.Lease(); !errors.Is(err, ErrLeaseLost) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %s", what, err, c.says)
		}
		if acct, err := a.Claim(ctx, "@new:hs"); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("%s: claimed %v, %v", what, acct, err)
		}
	}
}

// The answer to a renewal is lost. Whether it was made is not known; either is ours.
func TestReplicaWhoseRenewalIsUnsure(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for made := range 3 {
		db := replica(t, postgres.Database(t), "http://a")
		db.lease.recordFailure(errInjected, true)
		db.lease.recordFailure(errInjected, true)
		for range made {
			raw(t, db, "UPDATE replicas SET beat = beat + 1")
			raw(t, db, "UPDATE lease SET beat = beat + 1")
		}
		db.renew(ctx)
		if err := db.Lease(); err != nil {
			t.Errorf("%d of 2 were made: %v", made, err)
		}
		device(t, db, alice, "A")
	}
}

// frozenReplica returns a replica without renewals that has begun to write, and not committed.
func frozenReplica(t *testing.T, url string) (db *DB, acct *Account, dev int64, release func(), result chan error) {
	t.Helper()
	var h hook
	db = replica(t, url, "http://frozen", func(o *Options) { o.Lease, o.Wrap = testLease, h.wrap })
	acct, d := device(t, db, alice, "A")
	var once sync.Once
	reached, released := make(chan struct{}), make(chan struct{})
	h.watch(func(statement string) error {
		if statement == "COMMIT" {
			once.Do(func() { close(reached) })
			<-released
		}
		return nil
	})
	result = make(chan error, 1)
	go func() { result <- db.Save(context.WithoutCancel(t.Context()), acct, d.ID, roomAndInbox("!r")) }()
	<-reached
	raw(t, replica(t, url, "http://any"), "UPDATE replicas SET expires_at = "+pgNow+" - 1 WHERE advertise = 'http://frozen'")
	return db, acct, d.ID, func() { close(released) }, result
}

// The look whose the account is and the commit are two moments. An owner is frozen between
// them, another replica takes the account and reads its ratchets: the commit that comes
// afterwards must not be one of a ratchet that was read already. So the claim waits for the
// write to end. Orphans are claimed without waiting: this one is left out.
func TestClaimWaitsForAWriteUnderWay(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	_, acct, dev, release, result := frozenReplica(t, url)
	b := replica(t, url, "http://b")
	same(t, "orphans that can be had", len(must[[]*Account](t)(b.ClaimOrphans(ctx, 10))), 0)
	claimed := make(chan *Account, 1)
	go func() {
		mine, err := b.Claim(context.WithoutCancel(ctx), alice)
		if err != nil {
			t.Error(err)
		}
		claimed <- mine
	}()
	await(t, "waiting for the writer", func() bool {
		return len(column(t, b, "SELECT '1' FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")) > 0
	})
	release()
	if err := <-result; err != nil {
		t.Errorf("the write that was under way: %v", err)
	}
	if mine := <-claimed; mine != nil {
		same(t, "rooms that the new owner sees", roomCount(t, b, acct, dev), 1)
	}
}

// The same when the owner stays frozen: it cannot keep the account for ever, and when it comes
// back its write has not happened.
func TestFrozenOwnerIsThrownOut(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	a, acct, dev, release, result := frozenReplica(t, url)
	b := replica(t, url, "http://b")
	mine := claim(t, b, alice)
	same(t, "rooms", roomCount(t, b, mine, dev), 0)
	release()
	if err := <-result; err == nil {
		t.Error("the write of an owner that was thrown out succeeded")
	}
	if err := a.Save(ctx, acct, dev, oneRoom("!r")); !errors.Is(err, ErrNotOwner) {
		t.Errorf("the next write: got %v, want ErrNotOwner", err)
	}
	same(t, "rooms afterwards", roomCount(t, b, mine, dev), 0)
	save(t, b, mine, dev, oneRoom("!r"))
}

// A former owner begins a write at the moment in which its account is being taken: it waits for
// the claim, and must look at what the claim has left, not at what was there when it began.
func TestWriteDuringAClaim(t *testing.T) {
	t.Parallel()
	ctx := context.WithoutCancel(t.Context())
	var h hook
	url := postgres.Database(t)
	a := replica(t, url, "http://a")
	b := replica(t, url, "http://b", func(o *Options) { o.Wrap = h.wrap })
	acct, dev := device(t, a, alice, "A")
	for range 10 {
		save(t, a, acct, dev.ID, oneRoom("!before")) // so that PostgreSQL has planned it for good
	}
	dies(t, a)
	result := make(chan error, 1)
	h.watch(func(statement string) error {
		if statement == "COMMIT" {
			go func() { result <- a.Save(ctx, acct, dev.ID, oneRoom("!r")) }()
			await(t, "a writer that waits", func() bool {
				return len(column(t, a, "SELECT '1' FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")) > 0
			})
		}
		return nil
	})
	claim(t, b, alice)
	h.watch(nil)
	if err := <-result; !errors.Is(err, ErrNotOwner) {
		t.Errorf("the former owner: %v", err)
	}
	same(t, "rooms", roomCount(t, b, acct, dev.ID), 1) // that from before
}

// The clock of the database jumps: an hour ahead, and back. Whoever was taken for dead
// meanwhile has lost accounts and nothing else, and nobody is taken for alive for an hour.
func TestClockOfTheDatabaseJumps(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for what, jump := range map[string]string{"ahead": "- 3600000000 / 2", "back": "+ 3600000000 / 2"} {
		url := postgres.Database(t)
		a, b := replica(t, url, "http://a"), replica(t, url, "http://b")
		acct, dev := device(t, a, alice, "A")
		raw(t, a, "UPDATE replicas SET expires_at = expires_at "+jump+" WHERE advertise = 'http://a'")
		replica(t, url, "http://c") // which tidies up
		mine := claim(t, b, alice)
		if err := a.Save(ctx, acct, dev.ID, oneRoom("!r")); !errors.Is(err, ErrNotOwner) {
			t.Errorf("%s: the former owner wrote: %v", what, err)
		}
		save(t, b, mine, dev.ID, oneRoom("!r"))
		a.renew(ctx)
		if err := a.Ping(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		same(t, what+": replicas", len(must[[]Replica](t)(b.Replicas(ctx))), 3)
	}
}

// Two requests for an account that nobody has reach two replicas at the same moment, and two
// reach one of them. One replica gets it, once.
func TestClaimsAtTheSameTime(t *testing.T) {
	t.Parallel()
	ctx := context.WithoutCancel(t.Context())
	url := postgres.Database(t)
	a, b, former := replica(t, url, "http://a"), replica(t, url, "http://b"), replica(t, url, "http://former")
	for round := range 20 {
		if round%2 == 1 { // somebody had it
			claim(t, former, alice)
			if err := former.Release(ctx, former.owned.of(alice)); err != nil {
				t.Fatal(err)
			}
		}
		type result struct {
			db   *DB
			acct *Account
		}
		results := make(chan result)
		for _, db := range []*DB{a, a, b, b} {
			go func() {
				acct, err := db.Claim(ctx, alice)
				if err != nil && !errors.Is(err, ErrElsewhere) {
					t.Error(err)
				}
				results <- result{db, acct}
			}()
		}
		var won result
		for range 4 {
			r := <-results
			if r.acct == nil {
				continue
			}
			if won.acct != nil && (won.acct != r.acct || won.db != r.db) {
				t.Fatalf("round %d: two replicas got it, or one twice", round)
			}
			won = r
		}
		if won.acct == nil {
			t.Fatalf("round %d: nobody got it", round)
		}
		dev := must[Device](t)(won.db.CreateDevice(ctx, won.acct, Device{DeviceID: "A"}))
		save(t, won.db, won.acct, dev.ID, oneRoom("!r"))
		if err := won.db.DeleteAccount(ctx, won.acct); err != nil {
			t.Fatal(err)
		}
	}
}
