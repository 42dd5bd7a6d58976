package roomevents

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/searchindex"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
)

// redacts returns which events a redaction says that it redacts: in its content, or beside it in
// rooms of versions before 11.
func (job *eventJob) redacts() []id.EventID {
	var all []id.EventID
	for _, in := range []strictjson.Object{job.event, job.event.Object("content")} {
		if gone, ok := in.Text("redacts"); ok && gone != "" && len(gone) <= wire.MaxIDLength {
			all = append(all, id.EventID(gone))
		}
	}
	return all
}

// redactedIn returns the events that were redacted, as a batch says: by a redaction in it, or
// because nothing is left of them; each with its room.
func redactedIn(jobs []*eventJob) map[id.EventID]id.RoomID {
	gone := make(map[id.EventID]id.RoomID)
	for _, job := range jobs {
		switch {
		case job == nil || job.room == "":
		case job.empty && job.ID != "":
			gone[job.ID] = job.room
		case job.Type == "m.room.redaction" && job.event.Get("state_key") == nil:
			for _, event := range job.redacts() {
				gone[event] = job.room
			}
		}
	}
	return gone
}

// Redacted forgets events that were redacted, each in its room: they are found no more, and
// nothing of them is delivered later. A sync says so by redactions, which are not opened.
func (r *Reader) Redacted(ctx context.Context, gone map[id.EventID]id.RoomID) error {
	var u searchindex.Update
	for event, room := range gone {
		u.Gone = append(u.Gone, searchindex.Gone{Room: room, Event: event})
	}
	if err := r.search.Update(ctx, r.Device, u); err != nil && ctx.Err() == nil {
		r.Env.Log.Error().Err(err).Msg("Redacted messages could not be removed from the search index")
	}
	return r.late.Redacted(ctx, gone)
}
