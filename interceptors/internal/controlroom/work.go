package controlroom

import (
	"context"
	"sync"
	"time"
)

type ctxType = context.Context

// maxWork is how many long tasks run at once, for everybody together.
const maxWork = 256

// Work runs what takes longer than a request. Whoever makes it closes it, after the last
// request.
type Work struct {
	ctx    context.Context //nolint:containedctx // it is that of all tasks
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	n      int
	all    sync.WaitGroup
}

// NewWork returns what runs nothing yet.
func NewWork() *Work {
	ctx, cancel := context.WithCancel(context.Background())
	return &Work{ctx: ctx, cancel: cancel}
}

// Close ends all tasks and waits for them.
func (w *Work) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cancel()
	w.all.Wait()
}

// start runs a task, unless there are too many.
func (w *Work) start(task func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.n == maxWork {
		return false
	}
	w.n++
	w.all.Go(func() {
		defer func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.n--
		}()
		task()
	})
	return true
}

// later goes on with a turn when its request has ended, for a time at most. Without something
// that runs it, and when too much runs already, nothing happens, and it returns false.
func (w *turn) later(bound time.Duration, do func(*turn)) bool {
	work := w.rooms.opt.Work
	if work == nil {
		return false
	}
	next := *w
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), bound)
	stop := context.AfterFunc(work.ctx, cancel)
	next.ctx = ctx
	started := work.start(func() {
		defer cancel()
		defer stop()
		do(&next)
	})
	if !started {
		stop()
		cancel()
	}
	return started
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
