package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

// replica opens a database as one of a cluster. Nothing renews its row unless the test does.
func replica(t *testing.T, url, advertise string, change ...func(*Options)) *DB {
	t.Helper()
	o := options(t, url)
	o.Lease, o.Cluster = time.Minute, &Cluster{Advertise: advertise}
	for _, c := range change {
		c(&o)
	}
	return open(t, o)
}

// dies has others take a replica for dead: it is paused, or was killed.
func dies(t *testing.T, db *DB) {
	t.Helper()
	raw(t, db, "UPDATE replicas SET expires_at = "+pgNow+" - 1 WHERE name = '"+db.lease.token().holder+"'")
}

func claim(t *testing.T, db *DB, user id.UserID) *Account {
	t.Helper()
	return must[*Account](t)(db.Claim(t.Context(), user))
}

// An account is one replica's at a time. The others are told whose, nobody writes to it but its
// owner, and it goes over when it is released.
func TestAccountHasOneOwner(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	a, b := replica(t, url, "http://a"), replica(t, url, "http://b")
	if _, err := a.ClaimExisting(ctx, alice); !errors.Is(err, ErrNotFound) {
		t.Errorf("an account that does not exist: %v", err)
	}
	same(t, "whose it is before it exists", must[Owner](t)(a.Owner(ctx, alice)), Owner{State: OwnerNobody})
	mine := claim(t, a, alice)
	if again := must[*Account](t)(a.ClaimExisting(ctx, alice)); again != mine {
		t.Error("claimed twice")
	}
	if looked := must[*Account](t)(a.LookupAccount(ctx, alice)); looked != mine {
		t.Error("what is looked up is another one")
	}
	dev := must[Device](t)(a.CreateDevice(ctx, mine, Device{DeviceID: "A", State: DeviceOurs, Token: secretString("token")}))
	save(t, a, mine, dev.ID, everything())

	var elsewhere *ElsewhereError
	if _, err := b.Claim(ctx, alice); !errors.As(err, &elsewhere) || !errors.Is(err, ErrElsewhere) || elsewhere.Replica.Advertise != "http://a" {
		t.Errorf("the other replica's claim: %v", err)
	}
	owner := must[Owner](t)(b.Owner(ctx, alice))
	if owner.State != OwnerElsewhere || owner.Replica.Advertise != "http://a" || owner.Replica.ExpiresIn <= 0 {
		t.Errorf("whose it is: %+v", owner)
	}
	same(t, "for its owner", must[Owner](t)(a.Owner(ctx, alice)), Owner{State: OwnerHere})
	theirs := must[*Account](t)(b.LookupAccount(ctx, alice))
	must[Device](t)(b.Device(ctx, theirs, "A"))
	mustNotOwn(t, b, theirs, dev.ID)
	same(t, "devices for the rounds", []int{count(t, a), count(t, b)}, []int{1, 0})

	if err := a.Release(ctx, mine); err != nil {
		t.Fatal(err)
	}
	mustNotOwn(t, a, mine, dev.ID)
	now := claim(t, b, alice)
	save(t, b, now, dev.ID, rest())
	mustNotOwn(t, a, mine, dev.ID)
	mustNotOwn(t, a, must[*Account](t)(a.LookupAccount(ctx, alice)), dev.ID)
	all := must[[]Replica](t)(a.Replicas(ctx))
	var got []string
	for _, r := range all {
		got = append(got, fmt.Sprint(r.Advertise, " ", r.Self, " ", r.Accounts))
	}
	slices.Sort(got)
	same(t, "replicas", got, []string{"http://a true 0", "http://b false 1"})
}

func count(t *testing.T, db *DB) (n int) {
	t.Helper()
	for _, err := range db.OwnDevices(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// mustNotOwn tries every write for an account.
func mustNotOwn(t *testing.T, db *DB, acct *Account, dev int64) {
	t.Helper()
	ctx := t.Context()
	before := rowCounts(t, db)
	for what, write := range map[string]func() error{
		"save":          func() error { return db.Save(ctx, acct, dev, everything()) },
		"save a room":   func() error { return db.Save(ctx, acct, dev, oneRoom("!r")) },
		"new device":    func() error { _, err := db.CreateDevice(ctx, acct, Device{DeviceID: "B"}); return err },
		"delete device": func() error { return db.DeleteDevice(ctx, acct, dev) },
		"trim":          func() error { _, err := db.TrimPending(ctx, acct, dev, 0); return err },
		"delete":        func() error { return db.DeleteAccount(ctx, acct) },
	} {
		if err := write(); !errors.Is(err, ErrNotOwner) || errors.Is(err, ErrUnsure) {
			t.Errorf("%s: got %v, want ErrNotOwner", what, err)
		}
	}
	same(t, "rows", rowCounts(t, db), before)
}

// A replica is stopped by its machine for longer than its time, and another one takes an
// account of its and goes on with the ratchets. When the first one comes back it knows nothing
// of that. It must write nothing for that account, and be told; what nobody took is still its.
func TestResumedReplicaWritesNothingForLostAccounts(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	lost := make(chan *Account, 10)
	a := replica(t, url, "http://a", func(o *Options) { o.Cluster.Lost = func(acct *Account) { lost <- acct } })
	b := replica(t, url, "http://b")
	taken, kept := claim(t, a, alice), claim(t, a, "@kept:hs")
	dev := must[Device](t)(a.CreateDevice(ctx, taken, Device{DeviceID: "A"}))
	dies(t, a)
	next := claim(t, b, alice)
	save(t, b, next, dev.ID, everything())
	mustNotOwn(t, a, taken, dev.ID)
	if acct := <-lost; acct != taken {
		t.Error("another account was lost")
	}
	must[Device](t)(a.CreateDevice(ctx, kept, Device{DeviceID: "A"}))
	a.renew(ctx)
	if err := a.Lease(); err != nil {
		t.Error(err)
	}
	var elsewhere *ElsewhereError
	if _, err := a.Claim(ctx, alice); !errors.As(err, &elsewhere) {
		t.Errorf("it claims what it lost: %v", err)
	}
	select {
	case <-lost:
		t.Error("lost twice")
	default:
	}
	save(t, b, next, dev.ID, rest())
}

// The same without a write: the first renewal after the pause finds out what was taken.
func TestRenewalAfterAPauseFindsWhatWasTaken(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	lost := make(chan *Account, 10)
	a := replica(t, url, "http://a", func(o *Options) { o.Cluster.Lost = func(acct *Account) { lost <- acct } })
	b := replica(t, url, "http://b")
	taken := claim(t, a, alice)
	claim(t, a, "@kept:hs")
	dies(t, a)
	claim(t, b, alice)
	a.renew(ctx)
	if acct := <-lost; acct != taken {
		t.Error("another account was lost")
	}
	same(t, "whose it is", must[Owner](t)(a.Owner(ctx, alice)).State, OwnerElsewhere)
	same(t, "what was kept", must[Owner](t)(a.Owner(ctx, "@kept:hs")).State, OwnerHere)
}

// Three replicas take what a fourth one left. Each account goes to one of them, whatever the
// order, and together they take all.
func TestOrphansAreShared(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	dead := replica(t, url, "http://dead")
	for i := range 60 {
		claim(t, dead, id.UserID(fmt.Sprintf("@u%d:hs", i)))
	}
	all := []*DB{replica(t, url, "http://a"), replica(t, url, "http://b"), replica(t, url, "http://c")}
	for _, db := range all {
		same(t, "taken from a live one", len(must[[]*Account](t)(db.ClaimOrphans(ctx, 1000))), 0)
	}
	closeDB(t, dead)
	type result struct {
		accts []*Account
		err   error
	}
	results := make(chan result)
	for _, db := range all {
		go func() {
			accts, err := db.ClaimOrphans(context.WithoutCancel(ctx), 1000)
			results <- result{accts, err}
		}()
	}
	seen := make(map[id.UserID]bool)
	for range all {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		if len(r.accts) < 5 {
			t.Errorf("one replica has %d of 60", len(r.accts))
		}
		for _, acct := range r.accts {
			if seen[acct.UserID] {
				t.Errorf("%s was taken twice", acct.UserID)
			}
			seen[acct.UserID] = true
		}
	}
	same(t, "taken", len(seen), 60)
}

// Two processes on one database, of which only one knows of the other as a replica: the second
// one refuses and says who has it, in either order.
func TestClusterAndSingleProcessRefuseEachOther(t *testing.T) {
	t.Parallel()
	url := postgres.Database(t)
	single := options(t, url)
	single.Lease = time.Second
	clustered := single
	clustered.Cluster = &Cluster{}
	for _, c := range []struct {
		what          string
		first, second Options
		says          string
	}{
		{"single first", single, clustered, "runs without cluster"},
		{"cluster first", clustered, single, "set cluster for this one too"},
	} {
		first := c.first
		first.Lease, first.renewTicks = 2*time.Second, nil
		db := open(t, first)
		second, err := Open(t.Context(), c.second)
		if err == nil {
			closeDB(t, second)
			t.Fatalf("%s: the second process was let in", c.what)
		}
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), thisProcess()) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: refused with %q", c.what, err)
		}
		if err := db.Ping(t.Context()); err != nil {
			t.Errorf("%s: the first one: %v", c.what, err)
		}
		closeDB(t, db)
	}
	clustered.Cluster = &Cluster{Advertise: "http://a"}
	db := replica(t, url, "http://a")
	if second, err := Open(t.Context(), clustered); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "address of its own") {
		t.Errorf("with the address of another one: %v, %v", second, err)
	}
	dies(t, db)
	closeDB(t, open(t, clustered)) // it was started again after a crash
	lite := options(t, liteURL(t))
	lite.Cluster = &Cluster{}
	if db, err := Open(t.Context(), lite); err == nil || !strings.Contains(err.Error(), "PostgreSQL") {
		t.Errorf("a cluster on SQLite: %v, %v", db, err)
	}
}

// The answer to a release is lost, and the same user is back at once. What the engine had in
// memory before must not be written beside what it reads now.
func TestReleaseThatFailed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var h hook
	url := postgres.Database(t)
	a := replica(t, url, "http://a", func(o *Options) { o.Wrap = h.wrap })
	before, dev := device(t, a, alice, "A")
	save(t, a, before, dev.ID, everything())
	h.watch(func(statement string) error {
		if strings.HasPrefix(statement, "UPDATE accounts SET owner = ''") {
			return errInjected
		}
		return nil
	})
	if err := a.Release(ctx, before); !errors.Is(err, errInjected) {
		t.Errorf("released: %v", err)
	}
	h.watch(nil)
	now := claim(t, a, alice)
	mustNotOwn(t, a, before, dev.ID)
	save(t, a, now, dev.ID, rest())
}

// The answer to a claim is lost: the account is ours, and nobody knows. The next claim finds
// that, and so does that of another replica.
func TestClaimWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	a, b := replica(t, url, "http://a"), replica(t, url, "http://b")
	claim(t, a, alice)
	a.owned.mu.Lock()
	delete(a.owned.byUser, alice)
	a.owned.mu.Unlock()
	same(t, "whose", must[Owner](t)(a.Owner(ctx, alice)).State, OwnerNobody)
	if _, err := b.Claim(ctx, alice); !errors.Is(err, ErrElsewhere) {
		t.Errorf("another one's claim: %v", err)
	}
	acct := claim(t, a, alice)
	same(t, "epoch", acct.epoch, int64(1))
	must[Device](t)(a.CreateDevice(ctx, acct, Device{DeviceID: "A"}))
}

// A replica that is stopped for good gives its accounts to the others first, and gets none.
func TestDrainedReplicaGetsNoOrphans(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgres.Database(t)
	a, b := replica(t, url, "http://a"), replica(t, url, "http://b")
	makeAccounts(t, a, 20)
	if err := a.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	same(t, "taken by the one that drains", len(must[[]*Account](t)(a.ClaimOrphans(ctx, 100))), 0)
	same(t, "taken in parts", len(must[[]*Account](t)(b.ClaimOrphans(ctx, 5))), 5)
	same(t, "taken by the other one", len(must[[]*Account](t)(b.ClaimOrphans(ctx, 100))), 15)
	mine := claim(t, a, "@new:hs")
	must[Device](t)(a.CreateDevice(ctx, mine, Device{DeviceID: "A"}))
	closeDB(t, a)
	same(t, "taken when it has ended", len(must[[]*Account](t)(b.ClaimOrphans(ctx, 100))), 1)
	same(t, "replicas", len(must[[]Replica](t)(b.Replicas(ctx))), 1)
}

// Without a cluster everything is as it was: an account is this process's without a claim.
func TestOwnersWithoutACluster(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		ctx := t.Context()
		db := open(t, options(t, url))
		if _, err := db.ClaimExisting(ctx, alice); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
		acct, dev := device(t, db, alice, "A")
		same(t, "whose", must[Owner](t)(db.Owner(ctx, alice)), Owner{State: OwnerHere})
		same(t, "orphans", len(must[[]*Account](t)(db.ClaimOrphans(ctx, 10))), 0)
		same(t, "replicas", len(must[[]Replica](t)(db.Replicas(ctx))), 0)
		if err := errors.Join(db.Release(ctx, acct), db.Drain(ctx)); err != nil {
			t.Error(err)
		}
		save(t, db, acct, dev.ID, everything())
	})
}
