package trustcache

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// town is a homeserver with several accounts behind one process.
type town struct {
	t       testing.TB
	srv     *server
	answers *Answers
	people  []person // whom they ask about
}

// resident is an account of a town.
type resident struct {
	*tracking
	user  id.UserID
	alone bool
	// asks is how the account asks the homeserver.
	asks KeyQuerier
}

func newTown(t testing.TB, people int) *town {
	t.Helper()
	town := &town{t: t, srv: newServer(), answers: NewAnswers(AnswersOptions{})}
	for i := range people {
		p := newPerson(id.UserID(fmt.Sprintf("@p%d:example.org", i)), "1")
		town.srv.publish(p, p.signedDevice("PHONE"))
		town.people = append(town.people, p)
	}
	return town
}

// move adds an account that has synced and knows its own user.
func (town *town) move(number int, answers *Answers) *resident {
	town.t.Helper()
	r := town.stranger(number, answers)
	r.Synced(true)
	return r
}

// stranger adds an account that has not synced.
func (town *town) stranger(number int, answers *Answers) *resident {
	town.t.Helper()
	r := &resident{user: id.UserID(fmt.Sprintf("@a%d:example.org", number)), alone: true, asks: town.srv}
	own := newPerson(r.user, "1")
	town.srv.publish(own, own.signedDevice("OWN"))
	r.tracking = &tracking{t: town.t, srv: town.srv, mem: newMemory()}
	r.Tracker = NewTracker(r.mem, &store.Account{ID: int64(number + 1), UserID: r.user}, Options{
		Answers: answers, Alone: func(context.Context, *User) bool { return r.alone },
		QueryFailed: func(int, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.failed++
		},
		Observe: func(events []Event, _ *store.Changes) func() {
			return func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.events = append(r.events, events...)
			}
		},
	})
	town.t.Cleanup(r.Close)
	r.lookup(r.user)
	return r
}

// looks looks users up as the account's client does.
func (r *resident) looks(users ...id.UserID) map[id.UserID]*User {
	r.t.Helper()
	got, err := r.LookupMembers(context.Background(), r.asks, users, func(id.UserID) bool { return true })
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

func (town *town) users() []id.UserID {
	var out []id.UserID
	for _, p := range town.people {
		out = append(out, p.user)
	}
	return out
}

// asked returns how often the homeserver was asked about each user.
func (s *server) asked() map[id.UserID]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[id.UserID]int)
	for _, q := range s.queries {
		for _, u := range q {
			out[u]++
		}
	}
	return out
}

// wantAsked checks how often the homeserver was asked about people.
func (town *town) wantAsked(what string, times int) {
	town.t.Helper()
	asked := town.srv.asked()
	for _, p := range town.people {
		if asked[p.user] != times {
			town.t.Fatalf("%s: asked %d times about %s, want %d", what, asked[p.user], p.user, times)
		}
	}
}

// together runs f for every account at the same time.
func together(all []*resident, f func(*resident)) {
	var group sync.WaitGroup
	for _, r := range all {
		group.Go(func() { f(r) })
	}
	group.Wait()
}

// holdNext keeps the answer to the next query back, once it is made, until deliver is closed.
func (town *town) holdNext() (answered, deliver chan struct{}) {
	answered, deliver = make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	town.srv.after = func(context.Context, []id.UserID) error {
		if held.CompareAndSwap(false, true) {
			close(answered)
			<-deliver
		}
		return nil
	}
	return answered, deliver
}

// fresh looks everybody up and checks that all devices are known as signed.
func (town *town) fresh(r *resident, device id.DeviceID) {
	town.t.Helper()
	for user, u := range r.looks(town.users()...) {
		if u.Knowledge != KnowledgeFresh || u.Device(device) == nil || !u.Device(device).Signed || u.State() != PinPinned {
			town.t.Errorf("%s knows of %s: %v, %v", r.user, user, u.Knowledge, ids(u))
		}
	}
}

// All accounts need everybody at once, then one after the other, then again since everybody
// has changed: the homeserver is asked once about each.
func TestAccountsAskOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 10)
		var all []*resident
		for i := range 40 {
			all = append(all, town.move(i, town.answers))
		}
		together(all[:20], func(r *resident) { town.fresh(r, "PHONE") })
		town.wantAsked("at once", 1)
		for _, r := range all[20:] {
			town.fresh(r, "PHONE")
		}
		town.wantAsked("one after the other", 1)
		for _, p := range town.people {
			town.srv.publish(p, p.signedDevice("PHONE"), p.signedDevice("TABLET"))
		}
		together(all, func(r *resident) { r.changed(town.users()...) })
		together(all, func(r *resident) { town.fresh(r, "TABLET") })
		town.wantAsked("after a change", 2)
		together(all, func(r *resident) { town.fresh(r, "TABLET") })
		town.wantAsked("known", 2)
	})
}

// Accounts hear of a change one after the other, and each asks at once: who hears while a
// query gathers or is under way shares it if it began later.
func TestChangeHeardOneAfterTheOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 3)
		var all []*resident
		for i := range 30 {
			all = append(all, town.move(i, town.answers))
		}
		together(all, func(r *resident) { town.fresh(r, "PHONE") })
		town.srv.before = func(context.Context, []id.UserID) error { time.Sleep(10 * time.Millisecond); return nil }
		var group sync.WaitGroup
		for i, r := range all {
			group.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				r.changed(town.users()...)
				town.fresh(r, "PHONE")
			})
		}
		group.Wait()
		town.wantAsked("within 30 ms", 3) // the first, and two more that gathered for 20 ms each
	})
}

// An identity change warns every account, also one that took it from another's answer.
func TestSharedAnswerShowsIdentityChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 1)
		all := []*resident{town.move(0, town.answers), town.move(1, town.answers), town.move(2, town.answers)}
		together(all, func(r *resident) { town.fresh(r, "PHONE") })
		p := town.people[0]
		next := newPerson(p.user, "2")
		town.srv.publish(next, next.signedDevice("PHONE"))
		together(all, func(r *resident) { r.changed(p.user) })
		together(all, func(r *resident) {
			u := r.looks(p.user)[p.user]
			if effects := r.effects(p.user); u.State() != PinChanged || !slices.Contains(effects, string(EffectChanged)) {
				t.Errorf("%s: %v, %v", r.user, u.State(), effects)
			}
		})
		town.wantAsked("with the change", 2)
	})
}

// What the homeserver answers wrongly is refused by every account, and none takes another's
// word for a signature.
func TestSharedAnswerIsCheckedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 1)
		p, eve := town.people[0], newPerson("@eve:example.org", "1")
		town.srv.devices(p.user, p.signedDevice("PHONE"), p.device("FORGED").sign(p.user, p.selfSign.public.String(), eve.selfSign))
		all := []*resident{town.move(0, town.answers), town.move(1, town.answers), town.move(2, town.answers)}
		for i, r := range all {
			u := r.looks(p.user)[p.user]
			if d := u.Device("FORGED"); d == nil || d.Signed || !u.Device("PHONE").Signed {
				t.Errorf("account %d: %+v", i, u.Devices)
			}
		}
		town.wantAsked("all", 1)
	})
}

// Many accounts look up while everybody changes again and again. In the end all know what the
// homeserver shows, and what they knew as fresh was never older than what they were told.
func TestSharedAnswersRace(t *testing.T) {
	t.Parallel()
	town := newTown(t, 3)
	town.answers = NewAnswers(AnswersOptions{Gather: time.Millisecond})
	var all []*resident
	for i := range 8 {
		all = append(all, town.move(i, town.answers))
	}
	var publishing sync.Mutex
	version := 0
	var group sync.WaitGroup
	for _, r := range all {
		group.Go(func() {
			for range 30 {
				publishing.Lock()
				version++
				told := version
				for _, p := range town.people {
					town.srv.publish(p, p.signedDevice(id.DeviceID(fmt.Sprintf("D%04d", version))))
				}
				publishing.Unlock()
				r.changed(town.users()...)
				for user, u := range r.looks(town.users()...) {
					if u.Knowledge == KnowledgeFresh && strings.TrimLeft(ids(u)[0], "D") < fmt.Sprintf("%04d", told) {
						t.Errorf("%s: told of %d, knows %v of %s", r.user, told, ids(u), user)
					}
				}
			}
		})
	}
	group.Wait()
	together(all, func(r *resident) {
		r.changed(town.users()...)
		town.fresh(r, id.DeviceID(fmt.Sprintf("D%04d", version)))
	})
}

// What is kept has a bound, and a newer answer is never replaced by an older one.
func TestKeptAnswersAreBounded(t *testing.T) {
	t.Parallel()
	var k keptAnswers
	one := func(user string, asked moment, size int) *answer {
		return &answer{user: id.UserID(user), master: bytes.Repeat([]byte("x"), size), asked: asked}
	}
	k.add(one("@a:hs", 5, 10), 5, -100, 10000)
	k.add(one("@a:hs", 3, 10), 6, -100, 10000)
	if k.get("@a:hs").asked != 5 {
		t.Error("an older answer replaced a newer one")
	}
	for i := range 1000 {
		k.add(one(fmt.Sprintf("@u%d:hs", i), 10, 1000), 10, -100, 10000)
		if n := len(k.young) + len(k.old); n > 9 {
			t.Fatalf("%d answers", n)
		}
	}
	k.add(one("@huge:hs", 10, 100000), 10, -100, 10000)
	if k.get("@huge:hs") != nil || k.get("@u999:hs") == nil {
		t.Error("an answer that is too large")
	}
}
