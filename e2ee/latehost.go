package e2ee

import (
	"context"

	"e2ee-proxy/e2ee/internal/late"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// A device is the host of its late events.
var _ late.Host = host{}

// OpenAgain implements late.Host.
func (h host) OpenAgain(ctx context.Context, rows []store.PendingEvent) ([]late.Event, late.Basis) {
	in := make([]Incoming, len(rows))
	for i := range rows {
		in[i] = Incoming{RoomID: rows[i].RoomID, Event: rows[i].Event}
	}
	out, jobs, by := h.open(ctx, in)
	return judgedEvents(in, jobs, out), by.basis()
}

// judgedEvents returns what became of each event of a batch.
func judgedEvents(in []Incoming, jobs []*eventJob, out []Opened) []late.Event {
	events := make([]late.Event, len(in))
	for i, job := range jobs {
		events[i] = late.Event{Raw: in[i].Event, Shown: out[i].Event, Decrypted: out[i].Decrypted, Hidden: out[i].Hidden}
		if job != nil {
			events[i].Event = &job.Event
			events[i].Redeliver, events[i].Hold = job.redeliver, job.hold
			events[i].Withheld, events[i].Unknown = job.code == trustcache.CodeWithheld, job.held
		}
	}
	return events
}

// basis returns what late events are told of a judgement.
func (j *judgement) basis() late.Basis { return late.Basis{Keys: j.keys, Users: j.users} }
