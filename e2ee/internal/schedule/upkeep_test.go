package schedule

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/secret"
)

// queue is a host that counts how often the device came into the queue.
type queue struct {
	entered int
	full    bool
}

func (q *queue) Enqueue() bool {
	if !q.full {
		q.entered++
	}
	return !q.full
}

func (*queue) RunLoop() {}

func scheduled(t *testing.T) (*Schedule, *queue) {
	d := &core.Device{Env: &core.Env{Now: time.Now}}
	d.Context, d.Record.Token = t.Context(), secret.NewString("token")
	q := &queue{}
	sc := New(d, q)
	return &sc, q
}

func (sc *Schedule) kick() {
	sc.Mu.Lock()
	defer sc.Mu.Unlock()
	sc.KickLocked()
}

// A device is in the queue once, and again once its maintenance has begun; what is asked for
// while the queue is full or after its end does not count as queued.
func TestDeviceIsQueuedOnce(t *testing.T) {
	t.Parallel()
	sc, q := scheduled(t)
	q.full = true
	sc.kick()
	q.full = false
	sc.kick()
	sc.kick()
	if q.entered != 1 {
		t.Errorf("queued %d times, not once", q.entered)
	}
	sc.UpkeepBegins()
	sc.kick()
	if q.entered != 2 {
		t.Errorf("queued %d times, not again for what is asked for meanwhile", q.entered)
	}
	sc.UpkeepBegins()
	ended, end := context.WithCancel(t.Context())
	sc.Context = ended
	end()
	sc.kick()
	if q.entered != 2 {
		t.Error("a device that has ended is queued")
	}
}

// A visit has its maintenance done by itself: what is asked for meanwhile is not queued, and
// the first visit wants it unless it has run or is about to.
func TestVisitWantsUpkeep(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		before       func(*Schedule)
		first, kicks bool
		want         bool
	}{
		"nothing to do":               {nil, false, false, false},
		"the first":                   {nil, true, false, true},
		"asked for meanwhile":         {nil, false, true, true},
		"the first after maintenance": {(*Schedule).UpkeepBegins, true, false, false},
		"the first, and it is queued": {(*Schedule).kick, true, false, false},
		"asked for after maintenance": {(*Schedule).UpkeepBegins, false, true, true},
	} {
		sc, q := scheduled(t)
		if tc.before != nil {
			tc.before(sc)
		}
		before := q.entered
		sc.Mu.Lock()
		sc.VisitBegins(tc.first)
		sc.Mu.Unlock()
		if tc.kicks {
			sc.kick()
		}
		if got := sc.VisitEnds(); got != tc.want || q.entered != before {
			t.Errorf("%s: wanted is %t, and it was queued %d times", name, got, q.entered-before)
		}
	}
}

// Each reason to try again has one time, and what succeeds is not tried again.
func TestRetriesOfUpkeep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sc, q := scheduled(t)
		queued := func() int {
			synctest.Wait()
			n := q.entered
			sc.UpkeepBegins()
			return n
		}
		locked := func(f func()) {
			sc.Mu.Lock()
			defer sc.Mu.Unlock()
			f()
		}
		locked(func() {
			sc.RetryRestore(time.Hour)
			sc.RetryRestore(time.Minute)
			sc.RetryWedges(2 * time.Minute)
			sc.RetrySignature(3 * time.Minute)
			sc.DropSignatureRetry()
		})
		for i, want := range []int{0, 1, 2, 2} {
			if n := queued(); n != want {
				t.Errorf("after %d minutes it was queued %d times, not %d", i, n, want)
			}
			time.Sleep(time.Minute)
		}
		sc.UpkeepEnds(true, false)
		locked(func() {
			if sc.IsIdle() {
				t.Error("it is idle while something is to be tried again")
			}
		})
		time.Sleep(core.UpkeepPauses().Last)
		if n := queued(); n != 3 {
			t.Errorf("after a failure it was queued %d times, not 3", n)
		}
		sc.UpkeepEnds(false, true)
		if n := queued(); n != 4 {
			t.Error("what is left is not done at once")
		}
		sc.UpkeepEnds(false, false)
		time.Sleep(time.Hour)
		if n := queued(); n != 4 {
			t.Error("it is tried again after it succeeded")
		}
		locked(func() {
			if !sc.IsIdle() {
				t.Error("it is not idle although all has succeeded")
			}
		})
	})
}
