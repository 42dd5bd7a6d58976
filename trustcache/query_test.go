package trustcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store"
)

// Requirements 3.11, 0.12: a server that cannot be asked is unknown, and asked again with
// increasing pauses.
func TestFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv, mem := newServer(), newMemory()
		x := track(t, srv, mem)
		p, q := newPerson(bob, "1"), newPerson(carol, "1")
		srv.publish(p, p.signedDevice("PHONE"))
		srv.edit(func(r *QueryResult) { r.Failures["elsewhere.example"] = json.RawMessage(`{}`) })
		got := x.lookups(bob, carol)
		if got[bob].Knowledge != KnowledgeFresh || got[carol].Knowledge != KnowledgeUnreachable || got[carol].Known() {
			t.Errorf("got %v and %v", got[bob].Knowledge, got[carol].Knowledge)
		}
		x.lookups(bob, carol)
		want(t, "queries at once", 1, srv.count())
		if y := track(t, srv, mem).lookup(carol); y.Knowledge != KnowledgeUnreachable || srv.count() != 1 {
			t.Errorf("after a restart: %v, %d queries", y.Knowledge, srv.count())
		}
		time.Sleep(2 * time.Second)
		x.lookup(carol)
		want(t, "queries after 2 s", 2, srv.count())
		time.Sleep(2 * time.Second)
		x.lookup(carol)
		want(t, "queries after 2 s more", 2, srv.count())
		time.Sleep(2 * time.Second)
		srv.edit(func(r *QueryResult) { delete(r.Failures, "elsewhere.example") })
		srv.publish(q, q.signedDevice("PHONE"))
		if err := x.Refresh(context.Background(), srv); err != nil {
			t.Fatal(err)
		}
		u := x.lookup(carol)
		want(t, "queries", 3, srv.count())
		if u.Knowledge != KnowledgeFresh || u.State() != PinPinned {
			t.Errorf("reached: %v %v", u.Knowledge, u.State())
		}

		// Known from before: the devices stay, and so does what follows from them.
		srv.edit(func(r *QueryResult) { r.Failures["elsewhere.example"] = json.RawMessage(`{}`) })
		srv.devices(carol)
		u = x.update(carol)
		if u.Knowledge != KnowledgeStale || len(u.Devices) != 1 || u.State() != PinPinned {
			t.Errorf("unreachable again: %v, %d devices, %v", u.Knowledge, len(u.Devices), u.State())
		}
		// A change says that the server is there again.
		srv.edit(func(r *QueryResult) { delete(r.Failures, "elsewhere.example") })
		if u = x.update(carol); u.Knowledge != KnowledgeFresh || len(u.Devices) != 0 {
			t.Errorf("after a change: %v, %d devices", u.Knowledge, len(u.Devices))
		}
	})
}

// Attack: bob shows keys over which the program panics. It ended the process, for all accounts. He is
// one whose query failed, and soon holds up nobody who was asked about with him.
func TestKeysThatPanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv, mem := newServer(), newMemory()
		x := track(t, srv, mem)
		p, q := newPerson(bob, "1"), newPerson(carol, "1")
		srv.publish(p, p.signedDevice("PHONE"))
		srv.publish(q, q.signedDevice("PHONE"))
		mem.saving = func(ch *store.Changes) {
			if slices.ContainsFunc(ch.UserDevices, func(d store.UserDevice) bool { return d.UserID == bob }) {
				panic("an error in the program")
			}
		}
		if got := x.lookups(bob, carol); got[bob].Known() || x.failed != 1 {
			t.Errorf("bob is known: %v, %d queries failed", got[bob].Known(), x.failed)
		}
		for range 16 {
			time.Sleep(time.Minute)
			x.lookups(bob, carol)
		}
		got := x.lookups(bob, carol)
		if got[bob].Known() || got[carol].Knowledge != KnowledgeFresh || len(got[carol].Devices) != 1 {
			t.Errorf("got %v, and %v with %d devices", got[bob].Knowledge, got[carol].Knowledge, len(got[carol].Devices))
		}
		mem.saving = nil
		time.Sleep(time.Hour)
		if u := x.lookup(bob); u.Knowledge != KnowledgeFresh {
			t.Errorf("afterwards: %v", u.Knowledge)
		}
	})
}

// Seen with Dendrite (0.15.2): bob's server does not answer, and because another user is in the
// same answer, it names no failure and leaves bob out. That is not a bob without devices: he is
// asked about again, and who was known stays known.
func TestUserWhomTheAnswerDoesNotList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := newServer()
		x := track(t, srv, newMemory())
		p, q := newPerson(bob, "1"), newPerson(carol, "1")
		srv.publish(p, p.signedDevice("PHONE"))
		srv.publish(q, q.signedDevice("PHONE"))
		srv.omit(carol)
		got := x.lookups(bob, carol)
		if got[bob].Knowledge != KnowledgeFresh || got[carol].Knowledge != KnowledgeUnreachable {
			t.Errorf("got %v and %v", got[bob].Knowledge, got[carol].Knowledge)
		}
		srv.omit()
		time.Sleep(time.Hour)
		if u := x.lookup(carol); u.Knowledge != KnowledgeFresh || len(u.Devices) != 1 {
			t.Errorf("listed: %v, %d devices", u.Knowledge, len(u.Devices))
		}
		srv.omit(carol)
		if u := x.update(carol); u.Knowledge != KnowledgeStale || len(u.Devices) != 1 {
			t.Errorf("not listed again: %v, %d devices", u.Knowledge, len(u.Devices))
		}
		srv.omit()
		srv.devices(carol)
		if u := x.update(carol); u.Knowledge != KnowledgeFresh || len(u.Devices) != 0 {
			t.Errorf("listed without devices: %v, %d devices", u.Knowledge, len(u.Devices))
		}
	})
}

func TestWholeQueryFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv, mem := newServer(), newMemory()
		x := track(t, srv, mem, func(o *Options) { o.BatchSize = 8 })
		var users []id.UserID
		for i := range 8 {
			users = append(users, id.UserID(fmt.Sprintf("@u%d:example.org", i)))
		}
		poison := users[3]
		srv.before = func(_ context.Context, asked []id.UserID) error {
			if slices.Contains(asked, poison) {
				return errors.New("400")
			}
			return nil
		}
		for range 6 { // ever smaller queries
			x.lookups(users...)
			time.Sleep(10 * time.Minute)
		}
		for user, u := range x.lookups(users...) {
			if fresh := u.Knowledge == KnowledgeFresh; fresh == (user == poison) {
				t.Errorf("%s: %v", user, u.Knowledge)
			}
		}
		if x.failed == 0 {
			t.Error("failures were not told")
		}
		// A query that takes too long is a failure too, and a caller does not wait longer.
		x.changed(users[0])
		srv.before = func(ctx context.Context, _ []id.UserID) error { <-ctx.Done(); return ctx.Err() }
		start := time.Now()
		if u := x.lookup(users[0]); u.Knowledge != KnowledgeUnreachable && u.Knowledge != KnowledgeStale {
			t.Errorf("got %v", u.Knowledge)
		}
		if took := time.Since(start); took != 15*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// A caller who gives up spoils nothing for the others.
func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv, mem := newServer(), newMemory()
		x := track(t, srv, mem)
		p := newPerson(bob, "1")
		srv.publish(p, p.signedDevice("PHONE"))
		answer := make(chan struct{})
		srv.before = func(ctx context.Context, _ []id.UserID) error {
			select {
			case <-answer:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := x.Lookup(ctx, srv, []id.UserID{bob}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		done := make(chan *User)
		go func() { done <- x.lookup(bob) }()
		synctest.Wait()
		close(answer)
		if u := <-done; u.Knowledge != KnowledgeFresh {
			t.Errorf("got %v", u.Knowledge)
		}
		want(t, "queries", 1, srv.count())

		// Close ends what is in flight.
		x.changed(bob)
		srv.before = func(ctx context.Context, _ []id.UserID) error { <-ctx.Done(); return ctx.Err() }
		failed := make(chan error)
		go func() {
			_, err := x.Lookup(context.Background(), srv, []id.UserID{bob})
			failed <- err
		}()
		synctest.Wait()
		x.Close()
		if err := <-failed; !errors.Is(err, ErrClosed) {
			t.Errorf("in flight: %v", err)
		}
		if _, err := x.Lookup(context.Background(), srv, []id.UserID{bob}); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		want(t, "failures counted", 0, mem.row(bob).Failures)
	})
}

// A flood of changes costs one query in flight per user and one after it.
func TestQueriesAreCoalesced(t *testing.T) {
	t.Parallel()
	srv, mem := newServer(), newMemory()
	x := track(t, srv, mem)
	p := newPerson(bob, "1")
	srv.publish(p, p.signedDevice("PHONE"))
	asked, answer := make(chan struct{}), make(chan struct{})
	var first sync.Once
	srv.before = func(context.Context, []id.UserID) error {
		wait := false
		first.Do(func() { wait = true })
		if wait {
			close(asked)
			<-answer
		}
		return nil
	}
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() { x.lookup(bob) })
	}
	<-asked
	for range 1000 {
		x.changed(bob)
	}
	for range 50 {
		group.Go(func() { x.lookup(bob) })
	}
	close(answer)
	group.Wait()
	if n := srv.count(); n > 2 || len(srv.overlap) > 0 {
		t.Errorf("%d queries, overlapping for %v", n, srv.overlap)
	}
}

// An asker whose session has ended says nothing of the users: no failure is counted, and
// who waits for its answer asks at once.
func TestAskerWithoutASession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv, mem := newServer(), newMemory()
		x := track(t, srv, mem)
		p := newPerson(bob, "1")
		srv.publish(p, p.signedDevice("PHONE"))
		release := make(chan struct{})
		ended := querier(func(context.Context, []id.UserID) (*QueryResult, error) {
			<-release
			return nil, fmt.Errorf("%w: 401", ErrAsker)
		})
		failed := make(chan error)
		go func() {
			_, err := x.Lookup(context.Background(), ended, []id.UserID{bob})
			failed <- err
		}()
		synctest.Wait()
		joined := make(chan *User)
		go func() { joined <- x.lookup(bob) }()
		synctest.Wait()
		want(t, "queries beside the one on its way", 0, srv.count())
		close(release)
		if err := <-failed; !errors.Is(err, ErrAsker) {
			t.Errorf("got %v", err)
		}
		if u := <-joined; u.Knowledge != KnowledgeFresh {
			t.Errorf("got %v", u.Knowledge)
		}
		want(t, "failures counted", 0, mem.row(bob).Failures)
	})
}

// querier is a function that asks.
type querier func(ctx context.Context, users []id.UserID) (*QueryResult, error)

func (q querier) QueryKeys(ctx context.Context, users []id.UserID) (*QueryResult, error) {
	return q(ctx, users)
}
