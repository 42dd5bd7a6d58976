package controlroom

import (
	"time"

	"maunium.net/go/mautrix/id"
)

// Given is what a device has been handed of the room: what its user may have read. It is in
// memory only; after a restart nothing counts as read, until it is handed out again.
type Given struct {
	to        int64 // every line up to it
	from, end int64 // a page, with both of its ends
	at        time.Time
}

// Has reports whether a line was handed out, and since when at the latest.
func (g Given) Has(seq int64) (since time.Time, has bool) {
	return g.at, seq > 0 && (seq <= g.to || g.from <= seq && seq <= g.end)
}

// With returns what it is once the lines from one to another were handed out, whole: from 0 on by
// a sync, of which the device has those before.
func (g Given) With(from, to int64, at time.Time) Given {
	if g.at = at; from == 0 {
		g.to = max(g.to, to)
	} else {
		g.from, g.end = from, to
	}
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
