package trustcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"maunium.net/go/mautrix/id"
)

// asker is a KeyQuerier that may fail.
type asker func(context.Context, []id.UserID) (*QueryResult, error)

func (f asker) QueryKeys(ctx context.Context, users []id.UserID) (*QueryResult, error) {
	return f(ctx, users)
}

// Attack: somebody spoils the queries of their own account: their session has ended, or they
// have asked so much that the homeserver refuses to answer. The others ask for themselves, and
// no failure is counted for them.
func TestAskerFailsNobodyElse(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]error{"session ended": fmt.Errorf("401: %w", ErrAsker), "refused": errors.New("429")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				town := newTown(t, 2)
				var all []*resident
				for i := range 10 {
					all = append(all, town.move(i, town.answers))
				}
				all[1].changed(all[1].user) // several accounts ask
				spoiler := all[0]
				waits := make(chan struct{})
				spoiler.asks = asker(func(context.Context, []id.UserID) (*QueryResult, error) { <-waits; return nil, fails })
				var group sync.WaitGroup
				group.Go(func() { _, _ = spoiler.Lookup(context.Background(), spoiler.asks, town.users()) })
				synctest.Wait()
				group.Go(func() { together(all[1:], func(r *resident) { town.fresh(r, "PHONE") }) })
				time.Sleep(time.Second) // they wait for the spoiler's query
				close(waits)
				group.Wait()
				for _, r := range all[1:] {
					if r.failed > 0 || r.mem.row(town.people[0].user).Failures > 0 {
						t.Errorf("%s counted a failure", r.user)
					}
				}
				if errors.Is(fails, ErrAsker) {
					town.wantAsked("the others", 1)
				}
			})
		})
	}
}

// A homeserver that is down costs nobody more than two attempts' time, however many wait.
func TestSharedQueryFailsForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 1)
		var all []*resident
		for i := range 20 {
			all = append(all, town.move(i, town.answers))
		}
		town.srv.before = func(context.Context, []id.UserID) error { time.Sleep(time.Second); return errors.New("502") }
		begun := time.Now()
		together(all, func(r *resident) {
			p := town.people[0]
			if u := r.looks(p.user)[p.user]; u.Knowledge != KnowledgeUnreachable || r.mem.row(p.user).Failures != 1 || r.failed != 1 {
				t.Errorf("%s: %v, %d failures", r.user, u.Knowledge, r.mem.row(p.user).Failures)
			}
		})
		if took := time.Since(begun); took > 2100*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

// An account that is closed while others wait for its query leaves them to ask at once.
func TestAskerIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 1)
		a, b, c := town.move(0, town.answers), town.move(1, town.answers), town.move(2, town.answers)
		a.asks = asker(func(ctx context.Context, _ []id.UserID) (*QueryResult, error) { <-ctx.Done(); return nil, ctx.Err() })
		var group sync.WaitGroup
		group.Go(func() { _, _ = a.Lookup(context.Background(), a.asks, town.users()) })
		time.Sleep(time.Second)
		group.Go(func() { together([]*resident{b, c}, func(r *resident) { town.fresh(r, "PHONE") }) })
		time.Sleep(time.Second)
		begun := time.Now()
		a.Close()
		group.Wait()
		if took := time.Since(begun); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// A server that cannot be reached is asked about once for all who wait, and each account
// pauses as after a query of its own.
func TestSharedServerIsUnreachable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 0)
		const far id.UserID = "@far:elsewhere.example"
		town.srv.edit(func(r *QueryResult) { r.Failures["elsewhere.example"] = []byte(`{}`) })
		var all []*resident
		for i := range 10 {
			all = append(all, town.move(i, town.answers))
		}
		together(all, func(r *resident) {
			if u := r.looks(far)[far]; u.Knowledge != KnowledgeUnreachable || r.mem.row(far).Failures != 1 {
				t.Errorf("%s: %v, %d failures", r.user, u.Knowledge, r.mem.row(far).Failures)
			}
		})
		if n := town.srv.asked()[far]; n != 1 {
			t.Errorf("asked %d times", n)
		}
		p := newPerson(far, "1")
		town.srv.publish(p, p.signedDevice("PHONE"))
		town.srv.edit(func(r *QueryResult) { clear(r.Failures) })
		time.Sleep(time.Hour)
		together(all, func(r *resident) {
			if u := r.looks(far)[far]; u.Knowledge != KnowledgeFresh {
				t.Errorf("%s: %v", r.user, u.Knowledge)
			}
		})
	})
}

// A homeserver that answers one account with nothing may answer another.
func TestEmptyAnswerIsNotShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		town := newTown(t, 1)
		a, b := town.move(0, town.answers), town.move(1, town.answers)
		a.asks = asker(func(_ context.Context, users []id.UserID) (*QueryResult, error) {
			return &QueryResult{DeviceKeys: map[id.UserID]map[id.DeviceID]json.RawMessage{users[0]: nil}}, nil
		})
		if u := a.looks(town.people[0].user)[town.people[0].user]; u.Knowledge != KnowledgeFresh || len(u.Devices) > 0 {
			t.Fatal(u.Knowledge, ids(u))
		}
		town.fresh(b, "PHONE")
	})
}
