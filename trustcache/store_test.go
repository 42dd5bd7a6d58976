package trustcache

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testpg"
	"e2ee-proxy/store"
)

var _ Store = (*store.DB)(nil)

// postgres is shared by the tests of this binary, each with a database of its own.
var postgres testpg.Server

func TestMain(m *testing.M) {
	code := m.Run()
	if err := postgres.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
		code = 1
	}
	os.Exit(code)
}

// openStore opens an empty database at a URL and makes alice's account.
func openStore(t testing.TB, url string) (*store.DB, *store.Account) {
	t.Helper()
	key, err := store.NewMasterKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Options{URL: secret.NewString(url), MasterKeys: store.MasterKeys{Current: key}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	account, err := db.Account(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	return db, account
}

func sqliteURL(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "e2ee.db") }

// What a restart finds in a real database is what was in memory, and what the fake of
// the other tests would have kept.
func TestRealStores(t *testing.T) {
	t.Parallel()
	fake := newMemory()
	live, kept := story(t, fake, &store.Account{UserID: alice})
	compare := func(t *testing.T, s Store, account *store.Account) {
		gotLive, gotKept := story(t, s, account)
		if diff := cmp.Diff(live, gotLive, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("in memory: %s", diff)
		}
		if diff := cmp.Diff(kept, gotKept, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("after a restart: %s", diff)
		}
	}
	if diff := cmp.Diff(live, kept, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the fake: %s", diff)
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		db, account := openStore(t, sqliteURL(t))
		compare(t, db, account)
		history, err := db.UserChanges(t.Context(), account, bob)
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for _, c := range history {
			kinds = append(kinds, c.Kind)
		}
		want(t, "history", fake.kinds(bob), kinds)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		db, account := openStore(t, postgres.Database(t))
		compare(t, db, account)
	})
}

// story is everything that a tracker stores, and returns the users as they were in the end
// and as another tracker over the same store finds them.
func story(t *testing.T, s Store, account *store.Account) (live, kept map[id.UserID]*User) {
	t.Helper()
	ctx := t.Context()
	srv := newServer()
	now := func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }
	x := NewTracker(s, account, Options{Now: now})
	defer x.Close()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dave, erin := id.UserID("@dave:example.org"), id.UserID("@erin:example.org")
	all := []id.UserID{alice, bob, carol, dave, erin}
	look := func() {
		t.Helper()
		_, err := x.Lookup(ctx, srv, all)
		check(err)
	}
	sync := func(mark func(*store.Changes, []id.UserID) func(), users ...id.UserID) {
		t.Helper()
		ch := &store.Changes{}
		committed := mark(ch, users)
		check(s.Save(ctx, account, 0, ch))
		committed()
	}
	me, me2 := newPerson(alice, "1"), newPerson(alice, "2")
	b, b2, c, d := newPerson(bob, "1"), newPerson(bob, "2"), newPerson(carol, "1"), newPerson(dave, "1")
	srv.publish(me, me.signedDevice("OURS"))
	srv.publish(b, b.signedDevice("ONE"), b.device("TWO"), b.signedDevice("THREE"))
	srv.publish(c, c.signedDevice("ONE"))
	srv.publish(d, d.signedDevice("ONE"))
	srv.edit(func(r *QueryResult) {
		r.MasterKeys[carol], r.MasterKeys[dave] = c.masterSignedBy(me), d.masterSignedBy(me)
	})
	look()
	_, err := x.SetOwnIdentity(ctx, me.master.public)
	check(err)
	check(x.SetOverride(ctx, bob, "TWO", OverrideTrusted))
	check(x.SetOverride(ctx, bob, "ONE", OverrideDistrusted))
	srv.publish(b2, b.signedDevice("ONE"), b.device("TWO"), b2.signedDevice("FOUR"))
	srv.publish(me2)
	sync(x.Changed, bob, alice, "@nobody:example.org")
	look()
	check(x.Withdraw(ctx, dave))
	check(x.Acknowledge(ctx, bob, b2.master.public))
	srv.publish(newPerson(bob, "3"))
	sync(x.Changed, bob)
	look()
	sync(x.Left, dave)
	sync(x.Changed, carol)
	live, err = x.Cached(ctx, all)
	check(err)
	y := NewTracker(s, account, Options{Now: now})
	defer y.Close()
	kept, err = y.Cached(ctx, all)
	check(err)
	return live, kept
}

// Nothing that a tracker writes may undo a mark that a sync commits beside it.
func TestRealStoreFlood(t *testing.T) {
	t.Parallel()
	db, account := openStore(t, sqliteURL(t))
	flood(t, db, account, 4, 25)
}

func TestFlood(t *testing.T) {
	t.Parallel()
	flood(t, newMemory(), &store.Account{UserID: alice}, 8, 150)
}
