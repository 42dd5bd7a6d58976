package store

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"maunium.net/go/mautrix/id"
)

var errInjected = errors.New("injected")

// TestSaveIsAllOrNothing fails the n-th statement of a transaction for every n (attack 53):
// nothing may be written, and the next attempt must succeed.
func TestSaveIsAllOrNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		var h hook
		o := options(t, url)
		o.Wrap = h.wrap
		db := open(t, o)
		acct, dev := device(t, db, alice, "A")
		empty := rowCounts(t, db)
		c := everything()
		c.Device = &dev
		dev.Ed25519 = "changed"
		for n := 0; ; n++ {
			count := 0
			h.watch(func(statement string) error {
				if count++; count > n && statement != "ROLLBACK" {
					return errInjected
				}
				return nil
			})
			err := db.Save(t.Context(), acct, dev.ID, c)
			h.watch(nil)
			if err == nil {
				if n < 20 {
					t.Errorf("the save took %d statements: the test does not see them all", n)
				}
				break
			}
			if !errors.Is(err, errInjected) {
				t.Fatalf("statement %d: %v", n, err)
			}
			same(t, "rows after failure of statement "+strconv.Itoa(n), rowCounts(t, db), empty)
			if got := must[Device](t)(db.Device(t.Context(), acct, "A")); got.Ed25519 != "" || got.SyncPosition != "" {
				t.Fatalf("statement %d failed and the device was changed", n)
			}
		}
		dev.SyncPosition = "s1"
		checkEverything(t, db, acct, dev, c)
	})
}

// TestFailedRollback: a connection that cannot roll back is given up, and what it had
// begun with it.
func TestFailedRollback(t *testing.T) {
	t.Parallel()
	var h hook
	o := options(t, liteURL(t))
	o.Wrap = h.wrap
	db := open(t, o)
	acct, dev := device(t, db, alice, "A")
	h.watch(func(statement string) error {
		if statement == "COMMIT" || statement == "ROLLBACK" {
			return errInjected
		}
		return nil
	})
	for range 3 {
		if err := db.Save(t.Context(), acct, dev.ID, everything()); !errors.Is(err, errInjected) {
			t.Fatalf("got %v, want the injected error", err)
		}
	}
	h.watch(nil)
	same(t, "rows", countVisible(t, db, acct, dev.ID), 0)
	save(t, db, acct, dev.ID, everything())
}

// TestGroupedTransactionsAreApart: transactions that are committed together succeed and
// fail by themselves.
func TestGroupedTransactionsAreApart(t *testing.T) {
	t.Parallel()
	var h hook
	o := options(t, liteURL(t))
	o.Wrap = h.wrap
	db := open(t, o)
	acct, dev := device(t, db, alice, "A")
	h.watch(nil)

	w := as[*liteWriter](db.writer)
	w.sem <- struct{}{} // nobody commits until all have queued
	const jobs = 40
	results := make([]chan error, jobs)
	for i := range jobs {
		results[i] = make(chan error, 1)
		go func() {
			device := dev.ID
			if i%3 == 0 {
				device = 12345 // fails at its foreign key
			}
			results[i] <- db.Save(context.Background(), acct, device, &Changes{Rooms: []Room{{RoomID: id.RoomID("!" + strconv.Itoa(i))}}})
		}()
	}
	await(t, "the queue", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.queue) == jobs
	})
	<-w.sem
	for i := range jobs {
		err := <-results[i]
		if want := i%3 == 0; errors.Is(err, ErrNotFound) != want || (err == nil) == want {
			t.Errorf("transaction %d: %v", i, err)
		}
	}
	rooms := must[map[id.RoomID]Room](t)(db.Rooms(t.Context(), acct, dev.ID, nil))
	same(t, "rooms", len(rooms), jobs-(jobs+2)/3)
	commits := 0
	for _, s := range h.statements() {
		if s == "COMMIT" {
			commits++
		}
	}
	if commits != 1 {
		t.Errorf("%d commits for %d transactions that waited together", commits, jobs)
	}
}

// TestGivingUpWhileWaiting: a caller that goes away before its turn leaves nothing behind.
func TestGivingUpWhileWaiting(t *testing.T) {
	t.Parallel()
	db := open(t, options(t, liteURL(t)))
	acct, dev := device(t, db, alice, "A")
	w := as[*liteWriter](db.writer)
	w.sem <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- db.Save(ctx, acct, dev.ID, everything()) }()
	await(t, "the queue", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.queue) == 1
	})
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	<-w.sem
	same(t, "rows", countVisible(t, db, acct, dev.ID), 0)
	if err := db.Save(ctx, acct, dev.ID, everything()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	save(t, db, acct, dev.ID, everything())
}
