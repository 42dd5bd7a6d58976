package controlroom

import (
	"context"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/parallel"
)

type ctxType = context.Context

// maxWork is how many long tasks run at once for everybody together, and maxOwnWork for one
// user: nobody takes all of them.
const (
	maxWork    = 1 << 12
	maxOwnWork = 4
)

// Work runs what takes longer than a request. Whoever makes it closes it, after the last
// request.
type Work struct {
	ctx    context.Context //nolint:containedctx // it is that of all tasks
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	n      int
	of     map[id.UserID]map[string]struct{} // by user: the names of the tasks that run
	all    sync.WaitGroup
}

// NewWork returns what runs nothing yet.
func NewWork() *Work {
	ctx, cancel := context.WithCancel(context.Background())
	return &Work{ctx: ctx, cancel: cancel, of: make(map[id.UserID]map[string]struct{})}
}

// Close ends all tasks and waits for them.
func (w *Work) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cancel()
	w.all.Wait()
}

// start runs a task of a user, unless there are too many, or one of that name runs already.
func (w *Work) start(user id.UserID, name string, task func()) (started, runs bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	own := w.of[user]
	if _, runs := own[name]; runs {
		return false, true
	}
	if w.closed || w.n == maxWork || len(own) == maxOwnWork {
		return false, false
	}
	if own == nil {
		own = make(map[string]struct{}, maxOwnWork)
		w.of[user] = own
	}
	own[name] = struct{}{}
	w.n++
	w.all.Go(func() {
		defer func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.n--
			if delete(own, name); len(own) == 0 {
				delete(w.of, user)
			}
		}()
		task()
	})
	return true, true
}

// later goes on with a turn when its request has ended, for a time at most, unless that is done
// already under the same name. Without something that runs it, and when too much runs already,
// nothing happens, and it returns false.
func (w *turn) later(name string, bound time.Duration, do func(*turn)) bool {
	work := w.rooms.opt.Work
	if work == nil {
		return false
	}
	next := *w
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), bound)
	stop := context.AfterFunc(work.ctx, cancel)
	next.ctx = ctx
	started, runs := work.start(w.user(), name, func() {
		defer cancel()
		defer stop()
		if err := parallel.Try(func() error { do(&next); return nil }); err != nil {
			next.note(err)
			next.failed(err)
		}
	})
	if !started {
		stop()
		cancel()
	}
	return runs
}

// wait waits, and reports whether the turn goes on.
func (w *turn) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.ctx.Done():
		return false
	}
}
