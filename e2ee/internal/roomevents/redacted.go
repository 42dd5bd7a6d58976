package roomevents

import (
	"maunium.net/go/mautrix/id"

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
