package controlroom

import (
	"slices"
	"time"

	"maunium.net/go/mautrix/id"
)

// maxSteps is of how many syncs it is known when they handed something out.
const maxSteps = 64

// exactFor is how long ago something was handed out when it does not matter any more how long. Of
// more that came since than there are steps for, the newest are told apart no more.
const exactFor = 10 * time.Second

// Given is what a device has been handed of the room: what its user may have read. It is in
// memory only; after a restart nothing counts as read, until it is handed out again.
type Given struct {
	steps []step // never changed
	page  step   // a page of the history
}

// step is when lines were handed out, from one to another, both included.
type step struct {
	from, to int64
	at       time.Time
}

func (s step) has(seq int64) bool { return s.from <= seq && seq <= s.to }

// Has reports whether a line was handed out, and since when at the latest.
func (g Given) Has(seq int64) (since time.Time, has bool) {
	if seq <= 0 {
		return time.Time{}, false
	}
	for _, s := range append(g.steps[:len(g.steps):len(g.steps)], g.page) {
		if s.has(seq) && (!has || s.at.Before(since)) {
			since, has = s.at, true
		}
	}
	return since, has
}

// With returns what it is once the lines from one to another were handed out, whole: from 0 on by
// a sync, of which the device has those before.
func (g Given) With(from, to int64, at time.Time) Given {
	if from > 0 {
		g.page = step{from, to, at}
		return g
	}
	var last int64
	if n := len(g.steps); n > 0 {
		last = g.steps[n-1].to
	}
	if to <= last {
		return g // it has them already
	}
	steps := append(slices.Clone(g.steps), step{last + 1, to, at})
	if n := len(steps); n > maxSteps { // what two of them say counts as said by the later
		pair := n - 2
		if at.Sub(steps[1].at) > exactFor {
			pair = 0
		}
		steps[pair+1].from = steps[pair].from
		steps = slices.Delete(steps, pair, pair+1)
	}
	g.steps = steps
	return g
}

// Give records that the device's client has been sent lines, see [Given.With].
func (h Handle) Give(from, to int64) {
	if to <= 0 {
		return
	}
	h.a.mu.Lock()
	defer h.a.mu.Unlock()
	g, has := h.a.given[h.dev.ID]
	if h.a.given == nil || !has && len(h.a.given) >= maxDevices {
		h.a.given = make(map[id.DeviceID]Given) // the others are shown it again
	}
	h.a.given[h.dev.ID] = g.With(from, to, h.a.Env.Now())
}

// Given returns what the device has been handed until now.
func (h Handle) Given() Given {
	h.a.mu.Lock()
	defer h.a.mu.Unlock()
	return h.a.given[h.dev.ID]
}

// Seq returns the number of a line; 0 when it is not there.
func (v *View) Seq(event id.EventID) int64 {
	if i := v.find(event); i >= 0 {
		return v.Lines[i].Seq
	}
	return 0
}
