package trustcache

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// setClock gives a tracker a clock that the test moves.
func setClock(later *time.Duration, mu *sync.Mutex) func(*Options) {
	return func(o *Options) {
		o.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(*later)
		}
	}
}

// An account without devices of the proxy pins what its clients are answered, and makes nobody
// fresh by it: a device of the proxy that comes later asks by itself.
func TestAnswersToClientsAreLearnedFrom(t *testing.T) {
	t.Parallel()
	b, again := newPerson(bob, "1"), newPerson(bob, "2")
	srv := newServer()
	srv.publish(b, b.signedDevice("PHONE"), b.device("TABLET"))
	x := track(t, srv, newMemory())
	if diff := cmp.Diff([]string{"@bob:example.org TABLET"}, x.clientAnswer(nil, bob)); diff != "" {
		t.Error(diff)
	}
	u, err := x.Cached(t.Context(), []id.UserID{bob})
	if err != nil || u[bob].State() != PinPinned || u[bob].Knowledge != KnowledgeStale || len(u[bob].Devices) != 2 {
		t.Errorf("bob is known as %+v, %v", u[bob], err)
	}
	if row := x.mem.row(bob); row.Tracked || !row.Outdated {
		t.Errorf("bob is stored as %+v", row)
	}
	srv.publish(b, b.signedDevice("PHONE"), b.signedDevice("TABLET"))
	if hidden := x.clientAnswer(nil, bob); len(hidden) > 0 {
		t.Errorf("once it is signed, %v are hidden", hidden)
	}
	srv.publish(again, again.signedDevice("NEW"))
	if hidden := x.clientAnswer(nil, bob); len(hidden) > 0 {
		t.Errorf("of the new identity %v are hidden", hidden)
	}
	if u, err = x.Cached(t.Context(), []id.UserID{bob}); err != nil || u[bob].State() != PinChanged {
		t.Errorf("after a reset bob is %s, %v", u[bob].State(), err)
	}
	if n := srv.count(); n != 0 {
		t.Fatalf("the homeserver was asked %d times", n)
	}
	if got := x.lookup(bob); got.Knowledge != KnowledgeFresh || srv.count() != 1 {
		t.Errorf("a device of the proxy finds %v after %d queries", got.Knowledge, srv.count())
	}
	// What is fresh stays so, and is not written again.
	saves := 0
	x.mem.saving = func(*store.Changes) { saves++ }
	x.clientAnswer(nil, bob)
	if got := x.lookup(bob); got.Knowledge != KnowledgeFresh || srv.count() != 1 || saves != 0 {
		t.Errorf("then %v, %d queries, %d writes", got.Knowledge, srv.count(), saves)
	}
}

// A client that asks about one device of a user says nothing of the others.
func TestAnswersAboutSingleDevices(t *testing.T) {
	t.Parallel()
	b := newPerson(bob, "1")
	srv := newServer()
	srv.publish(b, b.signedDevice("PHONE"), b.signedDevice("LAPTOP"))
	x := track(t, srv, newMemory())
	x.clientAnswer(nil, bob)
	res, err := srv.reply([]id.UserID{bob})
	if err != nil {
		t.Fatal(err)
	}
	delete(res.DeviceKeys[bob], "LAPTOP")
	res.DeviceKeys[bob]["COPY"] = deviceFields(bob, "COPY", "@bob:example.org LAPTOP").sign(bob, b.selfSign.public.String(), b.selfSign).raw()
	q := x.BeginClientQuery(false)
	defer q.End()
	view, err := q.Answered(t.Context(), res, func(id.UserID) bool { return false }, ModeEnforce)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[id.UserID][]id.DeviceID{bob: {"COPY"}}, view.Hidden); diff != "" {
		t.Errorf("a device with the keys of one that was not asked for (-want +got):\n%s", diff)
	}
	u, err := x.Cached(t.Context(), []id.UserID{bob})
	if err != nil || len(u[bob].Devices) != 2 {
		t.Errorf("bob has %+v, %v", u[bob], err)
	}
}

// An answer that a client waited for is older than what became known meanwhile: it is shown
// as it is, and changes nothing.
func TestOvertakenAnswersOfClients(t *testing.T) {
	t.Parallel()
	b := newPerson(bob, "1")
	srv := newServer()
	srv.publish(b, b.signedDevice("PHONE"), b.signedDevice("STOLEN"))
	var later time.Duration
	x := track(t, srv, newMemory(), setClock(&later, &sync.Mutex{}))
	x.lookup(bob)
	old, err := srv.reply([]id.UserID{bob})
	if err != nil {
		t.Fatal(err)
	}
	q := x.BeginClientQuery(false)
	defer q.End()
	srv.publish(b, b.signedDevice("PHONE"))
	x.changed(bob)
	if u := x.lookup(bob); len(u.Devices) != 1 {
		t.Fatalf("bob has %d devices", len(u.Devices))
	}
	if hidden := x.answered(q, old); len(hidden) > 0 {
		t.Errorf("hidden: %v", hidden)
	}
	if u := x.lookup(bob); len(u.Devices) != 1 || u.Knowledge != KnowledgeFresh {
		t.Errorf("an older answer brings %d devices back, %v", len(u.Devices), u.Knowledge)
	}
	before := srv.count()
	if _, err := x.Within(t.Context(), srv, []id.UserID{bob}, time.Minute); err != nil || srv.count() != before+1 {
		t.Errorf("who decides now does not ask: %v", err)
	}
}

// Knowledge has an age limit for those who hear of no changes.
func TestWithin(t *testing.T) {
	t.Parallel()
	b, c := newPerson(bob, "1"), newPerson(carol, "1")
	srv := newServer()
	srv.publish(b, b.signedDevice("PHONE"))
	srv.publish(c, c.signedDevice("PHONE"))
	var later time.Duration
	var mu sync.Mutex
	x := track(t, srv, newMemory(), setClock(&later, &mu))
	within := func(users ...id.UserID) (map[id.UserID]*User, error) {
		return x.Within(t.Context(), srv, users, time.Minute)
	}
	asked := func(want int) {
		t.Helper()
		if got, err := within(bob, carol, bob, "nobody"); err != nil || srv.count() != want || !got[bob].Known() {
			t.Errorf("%d queries, want %d: %v, %v", srv.count(), want, got, err)
		}
	}
	asked(1)
	asked(1)
	mu.Lock()
	later += 59 * time.Second
	mu.Unlock()
	asked(1)
	mu.Lock()
	later += 2 * time.Second
	mu.Unlock()
	asked(2)
	x.clientAnswer(nil, bob, carol)
	mu.Lock()
	later += 59 * time.Second
	mu.Unlock()
	asked(2) // an answer that passed counts
	x.changed(bob)
	asked(3)
	mu.Lock()
	later += time.Hour
	mu.Unlock()
	// Bob's server cannot be reached: what was known counts, and nobody waits again at once.
	srv.edit(func(r *QueryResult) {
		delete(r.DeviceKeys, bob)
		r.Failures["example.org"] = json.RawMessage(`{}`)
	})
	asked(4)
	asked(4)
	mu.Lock()
	later += time.Hour
	mu.Unlock()
	// The homeserver itself does not answer: nobody decides.
	srv.before = func(context.Context, []id.UserID) error { return errors.New("down") }
	if got, err := within(bob); !errors.Is(err, ErrNotAnswered) {
		t.Errorf("without an answer: %v, %v", got, err)
	}
	srv.before = nil
	if _, err := within(bob); err != nil {
		t.Errorf("and as soon as it answers: %v", err)
	}
	srv.before = func(context.Context, []id.UserID) error { return ErrAsker }
	if _, err := within("@dave:example.org"); !errors.Is(err, ErrAsker) {
		t.Errorf("with a token that has ended: %v", err)
	}
}

// What a homeserver shows again and again and is refused is told once, and not written again.
func TestRefusedDevicesOfClientsAnswersAreToldOnce(t *testing.T) {
	t.Parallel()
	b := newPerson(bob, "1")
	srv := newServer()
	broken := b.signedDevice("BROKEN")
	broken["algorithms"] = []id.Algorithm{}
	srv.publish(b, b.signedDevice("PHONE"), broken)
	x := track(t, srv, newMemory())
	saves := 0
	x.mem.saving = func(*store.Changes) { saves++ }
	for range 3 {
		if diff := cmp.Diff([]string{"@bob:example.org BROKEN"}, x.clientAnswer(nil, bob)); diff != "" {
			t.Error(diff)
		}
	}
	told := 0
	for _, ev := range x.events {
		if ev.Kind == EventDevicesRefused {
			told++
		}
	}
	if told != 1 || saves != 1 {
		t.Errorf("told %d times, written %d times", told, saves)
	}
	other := b.signedDevice("BROKEN2")
	other["algorithms"] = []id.Algorithm{}
	srv.publish(b, b.signedDevice("PHONE"), broken, other)
	if x.clientAnswer(nil, bob); saves != 2 || x.last(EventDevicesRefused).Refused[1] != "BROKEN2" {
		t.Errorf("another one: %+v", x.last(EventDevicesRefused))
	}
}
