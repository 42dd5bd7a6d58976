package trustcache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// tracking is a tracker of alice's account with everything around it.
type tracking struct {
	*Tracker
	t      testing.TB
	srv    *server
	mem    *memory
	mu     sync.Mutex
	events []Event
	failed int
}

func track(t testing.TB, srv *server, mem *memory, edit ...func(*Options)) *tracking {
	t.Helper()
	out := &tracking{t: t, srv: srv, mem: mem}
	opts := Options{
		Observe: func(events []Event, _ *store.Changes) func() {
			return func() {
				out.mu.Lock()
				defer out.mu.Unlock()
				out.events = append(out.events, events...)
			}
		},
		QueryFailed: func(int, error) {
			out.mu.Lock()
			defer out.mu.Unlock()
			out.failed++
		},
	}
	for _, e := range edit {
		e(&opts)
	}
	out.Tracker = NewTracker(mem, &store.Account{UserID: alice}, opts)
	t.Cleanup(out.Close)
	return out
}

func (x *tracking) lookup(user id.UserID) *User {
	x.t.Helper()
	return x.lookups(user)[user]
}

func (x *tracking) lookups(users ...id.UserID) map[id.UserID]*User {
	x.t.Helper()
	got, err := x.Lookup(context.Background(), x.srv, users)
	if err != nil {
		x.t.Fatal(err)
	}
	return got
}

// changed is a sync that says that users changed, and is stored.
func (x *tracking) changed(users ...id.UserID) {
	x.t.Helper()
	ch := &store.Changes{}
	committed := x.Changed(ch, users)
	if err := x.mem.Save(context.Background(), nil, 1, ch); err != nil {
		x.t.Fatal(err)
	}
	committed()
}

func (x *tracking) left(users ...id.UserID) {
	x.t.Helper()
	ch := &store.Changes{}
	committed := x.Left(ch, users)
	if err := x.mem.Save(context.Background(), nil, 1, ch); err != nil {
		x.t.Fatal(err)
	}
	committed()
}

// update is changed and then looked up.
func (x *tracking) update(user id.UserID) *User {
	x.t.Helper()
	x.changed(user)
	return x.lookup(user)
}

// effects returns what happened to the pin of a user.
func (x *tracking) effects(user id.UserID) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []string
	for _, e := range x.events {
		if e.Kind == EventPin && e.UserID == user {
			out = append(out, string(e.Effect))
		}
	}
	return out
}

func (x *tracking) last(kind EventKind) Event {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range slices.Backward(x.events) {
		if e.Kind == kind {
			return e
		}
	}
	return Event{}
}

func ids(u *User) []string {
	out := []string{}
	for _, d := range u.Devices {
		s := d.DeviceID.String()
		if d.Signed {
			s += "+"
		}
		out = append(out, s)
	}
	return out
}

func want[T any](t testing.TB, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

// Requirements 4.1, 4.2, 4.7: a user is asked about once, and again only after a change.
func TestLookupTracks(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	p := newPerson(bob, "1")
	srv.publish(p, p.signedDevice("PHONE"), p.device("TABLET"))
	u := x.lookup(bob)
	want(t, "devices", []string{"PHONE+", "TABLET"}, ids(u))
	if u.Knowledge != KnowledgeFresh || u.State() != PinPinned || u.Master != p.master.public || u.UserSigning != "" || u.Own {
		t.Errorf("got %+v", u)
	}
	want(t, "history", []string{"first_seen"}, mem.kinds(bob))
	if again := x.lookup(bob); again != u {
		t.Error("another snapshot without a change")
	}
	want(t, "queries", 1, srv.count())

	// After a restart the store answers.
	y := track(t, srv, mem)
	v := y.lookup(bob)
	want(t, "queries after a restart", 1, srv.count())
	if diff := cmp.Diff(u, v); diff != "" {
		t.Errorf("after a restart: %s", diff)
	}

	srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("TABLET"), p.signedDevice("LAPTOP"))
	if x.lookup(bob); srv.count() != 1 {
		t.Error("asked without a change")
	}
	want(t, "devices after a change", []string{"LAPTOP+", "PHONE+", "TABLET+"}, ids(x.update(bob)))
	ev := x.last(EventDevices)
	want(t, "added", []id.DeviceID{"LAPTOP"}, ev.Added)
	want(t, "signed", []id.DeviceID{"LAPTOP", "TABLET"}, ev.Signed)
	want(t, "snapshot from before", []string{"PHONE+", "TABLET"}, ids(u))

	srv.publish(p, p.device("LAPTOP"))
	want(t, "devices after removal", []string{"LAPTOP"}, ids(x.update(bob)))
	want(t, "removed", []id.DeviceID{"PHONE", "TABLET"}, x.last(EventDevices).Removed)
	want(t, "signature lost", []id.DeviceID{"LAPTOP"}, x.last(EventDevices).Unsigned)
	want(t, "stored devices", []string{"LAPTOP"}, ids(track(t, srv, mem).lookup(bob)))
}

func TestCachedAsksNobody(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	p := newPerson(bob, "1")
	srv.publish(p, p.signedDevice("PHONE"))
	got, err := x.Cached(context.Background(), []id.UserID{bob})
	if err != nil || got[bob].Knowledge != KnowledgeUnknown || got[bob].Known() || srv.count() != 0 {
		t.Errorf("before: %+v, %v", got[bob], err)
	}
	x.lookup(bob)
	x.changed(bob)
	got, err = x.Cached(context.Background(), []id.UserID{bob})
	if err != nil || got[bob].Knowledge != KnowledgeStale || len(got[bob].Devices) != 1 {
		t.Errorf("after: %+v, %v", got[bob], err)
	}
	d, ok, err := x.DeviceByCurve25519(context.Background(), bob, got[bob].Devices[0].Curve25519)
	if err != nil || !ok || d.DeviceID != "PHONE" {
		t.Errorf("by key: %v %v %v", d.DeviceID, ok, err)
	}
	if _, ok, err := x.DeviceByCurve25519(context.Background(), carol, d.Curve25519); ok || err != nil {
		t.Errorf("another user's key: %v, %v", ok, err)
	}
	want(t, "queries", 1, srv.count())
}

// "Memory never claims to be fresh when the commit failed, and never across a known change."
func TestChangedWithoutCommit(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem, func(o *Options) { o.Cache = smallCache(t, 1) })
	p, q := newPerson(bob, "1"), newPerson(carol, "1")
	srv.publish(p, p.signedDevice("PHONE"))
	srv.publish(q)
	x.lookup(bob)
	x.lookup(carol) // bob leaves memory
	srv.publish(p)
	x.Changed(&store.Changes{}, []id.UserID{bob}) // its commit fails
	u, err := x.Cached(context.Background(), []id.UserID{bob})
	if err != nil || u[bob].Knowledge != KnowledgeStale {
		t.Fatalf("a user is %v across a known change, %v", u[bob].Knowledge, err)
	}
	x.lookup(carol)
	want(t, "devices", []string{}, ids(x.lookup(bob)))

	// A change that is in memory and whose commit comes later may cost a query, no more.
	ch := &store.Changes{}
	committed := x.Changed(ch, []id.UserID{bob})
	x.lookup(bob)
	if err := mem.Save(context.Background(), nil, 1, ch); err != nil {
		t.Fatal(err)
	}
	committed()
	if got := x.lookup(bob); got.Knowledge != KnowledgeFresh {
		t.Errorf("got %v", got.Knowledge)
	}
	want(t, "outdated in the store", true, mem.row(bob).Outdated)
}

// Requirement 4.5: an answer made before a change neither clears it nor outlives it.
func TestChangeWhileAQueryIsOnItsWay(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	p := newPerson(bob, "1")
	srv.publish(p, p.signedDevice("OLD"))
	var once sync.Once
	srv.after = func(context.Context, []id.UserID) error { // the answer is made, and not yet here
		once.Do(func() {
			srv.publish(p, p.signedDevice("NEW"))
			x.changed(bob)
		})
		return nil
	}
	u := x.lookup(bob)
	want(t, "devices", []string{"NEW+"}, ids(u))
	want(t, "queries", 2, srv.count())
	want(t, "outdated in the store", false, mem.row(bob).Outdated)

	// A change that arrives while the answer is being written waits for it.
	x.changed(bob)
	srv.publish(p, p.signedDevice("NEWER"))
	told := make(chan struct{})
	mem.saving = func(ch *store.Changes) {
		if len(ch.Users) == 0 {
			return
		}
		mem.saving = nil
		go func() {
			defer close(told)
			srv.publish(p, p.signedDevice("NEWEST"))
			x.changed(bob)
		}()
	}
	x.lookup(bob)
	<-told
	want(t, "devices after a restart", []string{"NEWEST+"}, ids(track(t, srv, mem).lookup(bob)))
	want(t, "devices", []string{"NEWEST+"}, ids(x.lookup(bob)))
}

// Requirement 4.6: a user who left is no longer followed; what is known of them stays.
func TestLeft(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	p := newPerson(bob, "1")
	srv.publish(p, p.signedDevice("PHONE"))
	x.lookup(bob)
	x.left(bob)
	if err := x.Refresh(context.Background(), srv); err != nil {
		t.Fatal(err)
	}
	want(t, "queries", 1, srv.count())
	got, err := x.Cached(context.Background(), []id.UserID{bob})
	if err != nil || got[bob].Knowledge != KnowledgeStale || got[bob].State() != PinPinned {
		t.Errorf("got %+v, %v", got[bob], err)
	}
	// Who left with one identity and comes back with another has changed it.
	p2 := newPerson(bob, "2")
	srv.publish(p2, p2.signedDevice("PHONE2"))
	if u := x.lookup(bob); u.State() != PinChanged || u.Knowledge != KnowledgeFresh || !mem.row(bob).Tracked {
		t.Errorf("back: %v %v", u.State(), u.Knowledge)
	}
	want(t, "queries", 2, srv.count())

	// Leaving while a query is on its way: its answer does not track again.
	x.changed(bob)
	var once sync.Once
	srv.after = func(context.Context, []id.UserID) error {
		once.Do(func() { x.left(bob) })
		return nil
	}
	x.lookup(bob)
	want(t, "queries", 4, srv.count()) // the Lookup itself asked again, since it needs an answer
	want(t, "tracked", true, mem.row(bob).Tracked)
}

// Membership events may name anything: what is no user ID is never sent.
func TestInvalidUserIDs(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	users := []id.UserID{"", "@", "bob:example.org", "@bob", "@b\x00b:example.org", "@b\xff:example.org", id.UserID("@" + string(make([]byte, 300)) + ":x")}
	for user, u := range x.lookups(users...) {
		if u == nil || u.Known() {
			t.Errorf("%q: %+v", user, u)
		}
	}
	want(t, "queries", 0, srv.count())
}

// A store that fails leaves memory as it was or emptier, never ahead.
func TestStoreFails(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	p, p2 := newPerson(bob, "1"), newPerson(bob, "2")
	srv.publish(p, p.signedDevice("PHONE"))
	x.lookup(bob)
	srv.publish(p2, p2.signedDevice("PHONE2"))
	x.changed(bob)
	mem.fail = errors.New("disk full")
	if _, err := x.Lookup(context.Background(), srv, []id.UserID{bob}); !errors.Is(err, mem.fail) {
		t.Errorf("got %v", err)
	}
	mem.fail = nil
	got, err := x.Cached(context.Background(), []id.UserID{bob})
	if err != nil || got[bob].Knowledge != KnowledgeStale || got[bob].State() != PinPinned {
		t.Errorf("got %v %v, %v", got[bob].Knowledge, got[bob].State(), err)
	}
	if u := x.lookup(bob); u.State() != PinChanged {
		t.Errorf("got %v", u.State())
	}
	mem.fail = errors.New("disk full")
	if err := x.Acknowledge(context.Background(), bob, p2.master.public); !errors.Is(err, mem.fail) {
		t.Errorf("got %v", err)
	}
	mem.fail = nil
	if u := x.lookup(bob); u.State() != PinChanged {
		t.Errorf("acknowledged without being stored: %v", u.State())
	}
	mem.lost = fmt.Errorf("connection lost: %w", store.ErrUnsure)
	if err := x.Acknowledge(context.Background(), bob, p2.master.public); !errors.Is(err, mem.lost) {
		t.Errorf("got %v", err)
	}
	mem.lost = nil
	if u := x.lookup(bob); u.State() != PinPinned {
		t.Errorf("stored without saying so, and not noticed: %v", u.State())
	}
	if len(x.effects(bob)) != 3 { // first_seen, changed, acknowledged: events come once stored, or perhaps stored
		t.Errorf("got %v", x.effects(bob))
	}
}

// What Observe adds is stored with the change or not at all, and what it returns may
// use the tracker: it runs once, when everything is stored.
func TestObserve(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	var warnings []store.Warning
	mem.saving = func(ch *store.Changes) { warnings = append(warnings, ch.Warnings...) }
	var x *tracking
	calls := 0
	x = track(t, srv, mem, func(o *Options) {
		o.Observe = func(events []Event, ch *store.Changes) func() {
			for _, ev := range events {
				if ev.Kind == EventPin && ev.State == PinChanged {
					ch.Warnings = append(ch.Warnings, store.Warning{Code: "identity_changed", UserID: ev.UserID})
				}
			}
			return func() {
				calls++
				if got, err := x.Cached(context.Background(), []id.UserID{bob}); err != nil || !got[bob].Known() {
					t.Errorf("%+v, %v", got[bob], err)
				}
				x.Changed(&store.Changes{}, []id.UserID{carol})
			}
		}
	})
	srv.publish(newPerson(bob, "1"))
	x.lookup(bob)
	srv.publish(newPerson(bob, "2"))
	x.update(bob)
	want(t, "calls", 2, calls)
	if len(warnings) != 1 || warnings[0].UserID != bob {
		t.Errorf("got %+v", warnings)
	}
}
