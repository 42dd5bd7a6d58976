package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// Two processes on one PostgreSQL each advanced the same ratchets: 17 of 80 messages of a
// run were encrypted with a key that another one had had. So the second process is refused
// for as long as the first one lives, in words that say where that is; and what the first
// one holds is renewed meanwhile, so that waiting for its end does not help.
func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	o := options(t, postgres.Database(t))
	o.Lease, o.renewTicks = 2*time.Second, nil // renewed as in earnest
	first := open(t, o)
	acct, dev := device(t, first, alice, "A")
	var told []string
	second := o
	second.Waiting = func(why error) { told = append(told, why.Error()) }
	db, err := Open(t.Context(), second)
	if err == nil {
		closeDB(t, db)
		t.Fatal("the second process was let in")
	}
	host, _ := os.Hostname()
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), host) || !strings.Contains(err.Error(), "stop the other e2ee-proxy") {
		t.Errorf("it was refused with %q", err)
	}
	if len(told) != 1 || !strings.Contains(told[0], ErrInUse.Error()) {
		t.Errorf("while it waited, it told %q", told)
	}
	save(t, first, acct, dev.ID, everything())
	if err := first.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// A process that ends gives the database to whoever starts next, without a wait.
func TestCleanStopGivesTheLeaseBack(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		o := options(t, url)
		o.Lease = time.Hour
		o.Waiting = func(why error) { t.Errorf("it waited: %v", why) }
		for range 3 {
			closeDB(t, open(t, o))
		}
	})
}

// The leases of these tests are renewed by nobody: their processes are paused. A machine is suspended, or a process stopped, and another process is started in its place.
// When the first one comes back it knows nothing of that, and goes on with the ratchets it has
// in memory. It must not write anything any more, whatever it tries, and learn that it is over.
func TestPausedProcessWritesNothing(t *testing.T) {
	t.Parallel()
	o := options(t, postgres.Database(t))
	first := open(t, o)
	acct, dev := device(t, first, alice, "A")
	end := func(db *DB) (us int64) {
		err := db.reader.Query(t.Context(), "SELECT expires_at FROM lease", nil, func(r *sql.Rows) error { return r.Scan(&us) })
		if err != nil {
			t.Fatal(err)
		}
		return us
	}
	ends := end(first)
	next := o
	next.Lease = 30 * time.Second // it is as patient as a busy machine asks for
	second := open(t, next)
	if taken := end(second) - next.Lease.Microseconds(); taken < ends {
		t.Errorf("the second process took what had not run out for another %d µs", ends-taken)
	}
	mustWriteNothing(t, first, second, acct, dev)
}

// The lock of a SQLite database is a file. Who deletes it lets a second process in, which
// is the one that may write from then on.
func TestDeletedLockFileLetsNobodyElseWrite(t *testing.T) {
	t.Parallel()
	o := options(t, liteURL(t))
	first := open(t, o)
	acct, dev := device(t, first, alice, "A")
	if err := os.Remove(pathOf(o.URL.Reveal()) + suffixLock); err != nil {
		t.Fatal(err)
	}
	mustWriteNothing(t, first, open(t, o), acct, dev)
}

func mustWriteNothing(t *testing.T, first, second *DB, acct *Account, dev Device) {
	t.Helper()
	ctx := t.Context()
	now := must[*Account](t)(second.LookupAccount(ctx, alice))
	save(t, second, now, dev.ID, &Changes{Rooms: []Room{{RoomID: "!kept"}}})
	before := rowCounts(t, second)
	lease := column(t, second, "SELECT CAST(beat AS TEXT) || holder FROM lease")
	for what, write := range map[string]func() error{
		"save":          func() error { return first.Save(ctx, acct, dev.ID, everything()) },
		"save a room":   func() error { return first.Save(ctx, acct, dev.ID, oneRoom("!r")) },
		"new account":   func() error { _, err := first.Account(ctx, "@new:hs"); return err },
		"new device":    func() error { _, err := first.CreateDevice(ctx, acct, Device{DeviceID: "B"}); return err },
		"delete device": func() error { return first.DeleteDevice(ctx, acct, dev.ID) },
		"delete":        func() error { return first.DeleteAccount(ctx, acct) },
		"prune":         func() error { _, err := first.PruneSeen(ctx, time.Now()); return err },
		"discard":       func() error { return first.DiscardOutboundState(ctx) },
	} {
		if err := write(); !errors.Is(err, ErrLeaseLost) || errors.Is(err, ErrUnsure) {
			t.Errorf("%s: got %v, want ErrLeaseLost", what, err)
		}
	}
	select {
	case <-first.LeaseLost():
	default:
		t.Error("the process was not told that it is over")
	}
	if err := first.Ping(ctx); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("ready: %v", err)
	}
	closeDB(t, first)
	same(t, "rows", rowCounts(t, second), before)
	same(t, "lease", column(t, second, "SELECT CAST(beat AS TEXT) || holder FROM lease"), lease)
	save(t, second, now, dev.ID, everything())
}

// The look whether the lease is still there and the commit are two moments. A process is
// frozen between them, its lease runs out, another one takes over and reads the ratchets:
// the commit that comes afterwards must not be one of a ratchet that was read already. So
// taking over waits for the write to end.
func TestTakingOverWaitsForAWriteUnderWay(t *testing.T) {
	t.Parallel()
	first, release, result := frozenInCommit(t)
	opened := make(chan *DB, 1)
	go func() {
		db, err := Open(t.Context(), first.o)
		if err != nil {
			t.Error(err)
		}
		opened <- db
	}()
	beside := first.o
	beside.ReadOnly = true
	watching := open(t, beside)
	await(t, "waiting for the writer", func() bool { return waitingForLocks(t, watching) == 1 })
	release()
	if err := <-result; err != nil {
		t.Errorf("the write that was under way: %v", err)
	}
	second := <-opened
	defer closeDB(t, second)
	same(t, "rooms that the second process sees", roomCount(t, second, first.acct, first.dev), 1)
}

// The same when the process stays frozen: it cannot keep others out for ever, and when it
// comes back its write has not happened.
func TestFrozenWriterIsThrownOut(t *testing.T) {
	t.Parallel()
	first, release, result := frozenInCommit(t)
	second := open(t, first.o)
	release()
	if err := <-result; err == nil {
		t.Error("the write of a process that was thrown out succeeded")
	}
	same(t, "rooms", roomCount(t, second, first.acct, first.dev), 0)
	if err := first.Save(t.Context(), first.acct, first.dev, oneRoom("!r")); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the next write: got %v, want ErrLeaseLost", err)
	}
}

type frozen struct {
	*DB
	o    Options
	acct *Account
	dev  int64
}

// roomAndInbox returns changes whose transaction reads something in the middle, so that the
// database knows of it before the commit.
func roomAndInbox(room id.RoomID) *Changes {
	c := oneRoom(room)
	c.Inbox = []InboxItem{{Event: secret.Bytes("{}")}}
	return c
}

// frozenInCommit returns a process without renewals that has begun to write, and not committed.
func frozenInCommit(t *testing.T) (first frozen, release func(), result chan error) {
	t.Helper()
	o := options(t, postgres.Database(t))
	var h hook
	hooked := o
	hooked.Wrap = h.wrap
	db := open(t, hooked)
	acct, dev := device(t, db, alice, "A")
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
	go func() { result <- db.Save(context.WithoutCancel(t.Context()), acct, dev.ID, roomAndInbox("!r")) }()
	<-reached
	return frozen{db, o, acct, dev.ID}, func() { close(released) }, result
}

// waitingForLocks counts who waits for a lock on the table of the lease.
func waitingForLocks(t *testing.T, db *DB) int {
	t.Helper()
	return len(column(t, db, `SELECT '1' FROM pg_locks WHERE relation = 'lease'::regclass AND NOT granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`))
}

// A process is killed. Its successor waits for the end of the lease, not longer, and finds
// everything; see TestKilled for kills at random points.
func TestKilledProcessIsSucceeded(t *testing.T) {
	t.Parallel()
	url := postgres.Database(t)
	reported := killAfter(t, url, 5)
	o := options(t, url)
	db := open(t, o)
	acct := must[*Account](t)(db.LookupAccount(t.Context(), alice))
	dev := must[Device](t)(db.Device(t.Context(), acct, "A"))
	for room := range reported {
		must[OutboundSession](t)(db.OutboundSession(t.Context(), acct, dev.ID, room))
	}
	same(t, "epochs", column(t, db, "SELECT epoch::text FROM lease"), [][]byte{[]byte("2")})
}

// The database is put back to an older state while the proxy runs, by a dump or a snapshot
// of its server: memory is ahead of it, and a device that is read again would use indices
// twice. The next renewal finds the beat that it left somewhere else.
func TestSetBackUnderARunningProcess(t *testing.T) {
	t.Parallel()
	for what, setBack := range map[string]string{
		lostByASetBack: "UPDATE lease SET beat = beat - 1", lostWithItsTable: "DELETE FROM lease", lostToAnother: "UPDATE lease SET epoch = epoch - 1",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db := open(t, options(t, postgres.Database(t)))
			db.renew(t.Context())
			raw(t, db, setBack)
			if err := db.Lease(); err != nil {
				t.Errorf("before: %v", err)
			}
			db.renew(t.Context())
			<-db.LeaseLost()
			if err := db.Lease(); !errors.Is(err, ErrLeaseLost) || !strings.Contains(err.Error(), what) {
				t.Errorf("got %v, want %s", err, what)
			}
		})
	}
}

// The answer to a renewal is lost. Whether it was made is not known; either is ours.
func TestRenewalWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	for _, made := range []int{0, 1, 2} {
		o := options(t, postgres.Database(t))
		db := open(t, o)
		for range 2 {
			db.lease.recordFailure(errInjected, true)
		}
		for range made {
			raw(t, db, "UPDATE lease SET beat = beat + 1")
		}
		db.renew(t.Context())
		if err := db.lease.lostErr(); err != nil {
			t.Errorf("%d of 2 were made: %v", made, err)
		}
		raw(t, db, "UPDATE lease SET beat = beat + 1")
		db.renew(t.Context())
		if db.lease.lostErr() == nil {
			t.Errorf("%d of 2 were made: the next one that is not ours was taken for ours", made)
		}
	}
}

// A lease that cannot be renewed shows in readiness before anybody else has taken it, and
// no longer once it could be.
func TestReadinessWithoutRenewals(t *testing.T) {
	t.Parallel()
	var h hook
	o := options(t, postgres.Database(t))
	o.Wrap = h.wrap
	beats := make(chan time.Time)
	o.renewTicks, o.Lease = beats, time.Second
	db := open(t, o)
	// A renewal has a part of the lease's time, which a busy machine may not keep. The next one
	// comes soon, as in earnest.
	beat := func() {
		select {
		case beats <- time.Time{}:
		default:
		}
	}
	h.watch(func(statement string) error {
		if strings.HasPrefix(statement, "UPDATE lease") {
			return errInjected
		}
		return nil
	})
	await(t, "a failing readiness", func() bool {
		beat()
		return errors.Is(db.Ping(t.Context()), errInjected)
	})
	h.watch(nil)
	await(t, "a good readiness", func() bool {
		beat()
		return db.Ping(t.Context()) == nil
	})
}

// A standby takes over that lacks the latest transactions. The process that goes on has in
// memory what the database does not know; it ends when it sees that the server is another
// one, before it gets a connection to write with.
func TestServerIsReplaced(t *testing.T) {
	t.Parallel()
	for what, notice := range map[string]func(*DB) error{
		"by a new connection": func(db *DB) error {
			db.reader.DB.SetMaxIdleConns(0)
			_, err := db.Account(context.WithoutCancel(t.Context()), "@new:hs")
			return err
		},
		"by a renewal": func(db *DB) error {
			db.renew(context.WithoutCancel(t.Context()))
			return db.Lease()
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db := open(t, options(t, postgres.Database(t)))
			parts := strings.Split(db.lease.server, "/")
			if len(parts) != 2 || parts[1] == "-" {
				t.Fatalf("the server is known as %q", db.lease.server)
			}
			db.lease.server = parts[0] + "/00000009"
			if err := notice(db); !errors.Is(err, ErrLeaseLost) || !strings.Contains(err.Error(), lostWithAServer) {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, c := range []struct {
		a, b string
		like bool
	}{{"1/2", "1/2", true}, {"1/2", "1/3", false}, {"1/2", "2/2", false}, {"-/2", "1/2", true}, {"1/2", "1/-", true}, {"-/2", "-/3", false}} {
		same(t, c.a+" and "+c.b, serversMatch(c.a, c.b), c.like)
	}
}

// The clock of a server that was replaced ran ahead by an hour. That must not keep the
// proxy from starting for an hour.
func TestEndOfLeaseByAnotherClock(t *testing.T) {
	t.Parallel()
	o := options(t, postgres.Database(t))
	db := open(t, o)
	raw(t, db, "UPDATE lease SET expires_at = expires_at + 3600000000")
	o.Waiting = func(why error) { t.Errorf("it waited: %v", why) }
	open(t, o)
	if _, err := db.Account(t.Context(), id.UserID("@new:hs")); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("the first one wrote: %v", err)
	}
}
