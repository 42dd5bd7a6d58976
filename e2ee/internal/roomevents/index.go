package roomevents

import (
	"context"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/searchindex"
	"e2ee-proxy/internal/strictjson"
)

// index has what the client is shown of a batch found later. It is stored before the client
// gets it: one that does not get it repeats its request. If that fails, the client gets it
// nevertheless.
func (r *Reader) index(ctx context.Context, jobs []*eventJob, out []Opened) {
	if !r.search.On() || ctx.Err() != nil {
		return
	}
	var u searchindex.Update
	for i, job := range jobs {
		if job == nil || job.ID == "" || job.room == "" {
			continue
		}
		switch {
		case out[i].Withheld, out[i].Hidden:
		case out[i].Decrypted:
			u.Entries = append(u.Entries, entryOf(job, job.said))
		case job.Ciphertext == "" && r.rooms.KnownEncrypted(job.room):
			job.indexPlain(&u)
		}
	}
	if err := r.search.Update(ctx, r.Device, u); err != nil && ctx.Err() == nil {
		r.Env.Log.Error().Err(err).Msg("Messages could not be added to the search index")
	}
}

// indexPlain adds what an event in clear says: in an encrypted room the homeserver's search
// does not find those either.
func (job *eventJob) indexPlain(u *searchindex.Update) {
	content, err := strictjson.Parse(job.event.Get("content"))
	if err != nil {
		return
	}
	_, state := job.event.Text("state_key")
	switch {
	case job.Type == "m.room.redaction":
		for _, gone := range job.redacts() {
			u.Gone = append(u.Gone, searchindex.Gone{Room: job.room, Event: gone})
		}
	case len(content) == 0 && !state: // redacted
		u.Gone = append(u.Gone, searchindex.Gone{Room: job.room, Event: job.ID})
	case len(content) > 0:
		// An edit in clear changes nothing that was encrypted (requirement 19.3), and what it
		// edits may have been.
		if e := entryOf(job, content); e.Source == "" {
			u.Entries = append(u.Entries, e)
		}
	}
}

// entryOf returns an event as it is searched for; without texts if there is nothing to find.
func entryOf(job *eventJob, content strictjson.Object) searchindex.Entry {
	e := searchindex.Entry{
		Room: job.room, Event: job.ID, Sender: job.Sender, At: job.Timestamp, Type: job.Type,
	}
	relation := content.Object("m.relates_to")
	if kind, _ := relation.Text("rel_type"); kind == "m.replace" {
		edited, _ := relation.Text("event_id")
		e.Event, e.Source, e.SourceAt = id.EventID(edited), job.ID, job.Timestamp
		content = content.Object("m.new_content")
	}
	e.Texts, e.URL = searchindex.TextsOf(job.Type, content), content.TextOrEmpty("url") != "" || content.Object("file") != nil
	return e
}
