package trustcache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// version is what of a user's device list the homeserver shows, has told us of, and
// what of that we have stored.
type version struct {
	mu                     sync.Mutex
	shown, told, committed int
}

// flood lets users change their devices, syncs tell of it and fail to be stored,
// queries overtake each other, owners press buttons, memory be too small, and
// processes be replaced, all at once. What must hold at every moment: a snapshot that
// says it is fresh is not older than what we had been told before we looked, and a new
// process does not believe what is older than what was stored (requirements 4.2 to 4.5).
func flood(t *testing.T, s Store, account *store.Account, workers, rounds int) {
	const count = 5
	srv := newServer()
	srv.before, srv.after = stall, stall
	var users []id.UserID
	versions := make(map[id.UserID]*version)
	people := make(map[id.UserID]person)
	for i := range count {
		u := id.UserID(fmt.Sprintf("@u%d:example.org", i))
		users, versions[u], people[u] = append(users, u), &version{}, newPerson(u, "1")
		srv.publish(people[u], deviceFields(u, "V0", "V0"))
	}
	var process sync.RWMutex // written by a restart
	x := NewTracker(s, account, Options{Cache: smallCache(t, 2), BatchSize: 2})
	defer func() { x.Close() }()

	change := func(u id.UserID, fails bool) error {
		v := versions[u]
		v.mu.Lock()
		defer v.mu.Unlock()
		v.shown++
		name := "V" + strconv.Itoa(v.shown)
		srv.publish(people[u], deviceFields(u, id.DeviceID(name), name))
		ch := &store.Changes{}
		committed := x.Changed(ch, []id.UserID{u})
		v.told = v.shown
		if fails {
			return nil
		}
		runtime.Gosched()
		if err := s.Save(context.Background(), account, 0, ch); err != nil {
			return err
		}
		committed()
		v.committed = v.shown
		return nil
	}
	look := func(u id.UserID) error {
		v := versions[u]
		v.mu.Lock()
		atLeast := v.told
		v.mu.Unlock()
		got, err := x.Lookup(context.Background(), srv, []id.UserID{u, users[rand.IntN(count)]})
		if err != nil {
			return err
		}
		if got[u].Knowledge == KnowledgeFresh && versionOf(got[u]) < atLeast {
			return fmt.Errorf("%s is fresh at %d, told of %d before", u, versionOf(got[u]), atLeast)
		}
		return nil
	}
	restart := func() error {
		process.Lock()
		defer process.Unlock()
		x.Close()
		x = NewTracker(s, account, Options{Cache: smallCache(t, 2), BatchSize: 2})
		got, err := x.Cached(context.Background(), users)
		if err != nil {
			return err
		}
		for u, v := range versions {
			v.told = v.committed // the rest comes again with the next sync
			if got[u].Knowledge == KnowledgeFresh && versionOf(got[u]) < v.committed {
				return fmt.Errorf("%s is fresh at %d after a restart, %d was stored", u, versionOf(got[u]), v.committed)
			}
		}
		return nil
	}
	press := func(u id.UserID) error {
		got, err := x.Cached(context.Background(), []id.UserID{u})
		if err != nil || len(got[u].Devices) == 0 {
			return err
		}
		err = x.SetOverride(context.Background(), u, got[u].Devices[0].DeviceID, OverrideTrusted)
		if errors.Is(err, ErrNoDevice) {
			return nil
		}
		return err
	}
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range rounds {
				u := users[rand.IntN(count)]
				var err error
				process.RLock()
				switch n := rand.IntN(20); {
				case n < 6:
					err = change(u, n == 0)
				case n < 8:
					err = press(u)
				case n < 19:
					err = look(u)
				default:
				}
				process.RUnlock()
				if err == nil && rand.IntN(40) == 0 {
					err = restart()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if len(srv.overlap) > 0 {
		t.Errorf("two queries at once for %v", srv.overlap)
	}
	for _, u := range users { // at rest, everybody is as the homeserver shows them
		if err := change(u, false); err != nil {
			t.Fatal(err)
		}
		if err := look(u); err != nil {
			t.Error(err)
		}
	}
}

// stall lets others overtake.
func stall(context.Context, []id.UserID) error {
	for range rand.IntN(20) {
		runtime.Gosched()
	}
	return nil
}

func versionOf(u *User) int {
	if len(u.Devices) != 1 {
		return -1
	}
	n, err := strconv.Atoi(u.Devices[0].DeviceID.String()[1:])
	if err != nil {
		return -1
	}
	return n
}

func smallCache(t *testing.T, users int) *Cache {
	t.Helper()
	c, err := NewCache(users)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// One cache serves the trackers of many accounts: together they keep no more users than it
// may hold, each account has its own, and what made room is read again without a question to
// the homeserver.
func TestCacheIsBoundedForAllAccounts(t *testing.T) {
	t.Parallel()
	srv := newServer()
	p := newPerson(bob, "1")
	srv.publish(p, p.signedDevice("PHONE"))
	cache := smallCache(t, 3)
	trackers := make([]*Tracker, 10)
	for i := range trackers {
		account := &store.Account{ID: int64(i), UserID: id.UserID(fmt.Sprintf("@a%d:example.org", i))}
		trackers[i] = NewTracker(newMemory(), account, Options{Cache: cache})
		t.Cleanup(trackers[i].Close)
	}
	for range 2 {
		for _, x := range trackers {
			users, err := x.Lookup(t.Context(), srv, []id.UserID{bob})
			if err != nil || users[bob].Knowledge != KnowledgeFresh {
				t.Fatalf("%+v, %v", users[bob], err)
			}
			if n := cache.users.Len(); n > 3 {
				t.Errorf("%d users are kept, 3 may be", n)
			}
		}
	}
	want(t, "queries", len(trackers), srv.count())
	if err := trackers[0].Acknowledge(t.Context(), bob, p.master.public); err != nil {
		t.Fatal(err)
	}
	if err := trackers[0].SetOverride(t.Context(), bob, "PHONE", OverrideDistrusted); err != nil {
		t.Fatal(err)
	}
	for i, x := range trackers {
		users, err := x.Cached(t.Context(), []id.UserID{bob})
		if err != nil || (users[bob].Device("PHONE").Override == OverrideDistrusted) != (i == 0) {
			t.Errorf("account %d: %+v, %v", i, users[bob], err)
		}
	}
}
