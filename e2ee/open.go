package e2ee

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/ownbackup"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// eventJob is one event on its way through Open.
type eventJob struct {
	roomkeys.Event // its Ciphertext is empty when it is not encrypted

	room  id.RoomID
	event strictjson.Object
	outer strictjson.Object // content as the server sent it

	redeliver bool
	order     Order
	wait      time.Duration
	hold      bool
	code      trustcache.Code // why it cannot be decrypted
	// held is the user of whom more must become known before a withheld event can be shown;
	// empty otherwise.
	held id.UserID
}

// eventsOf returns the events of those that are well-formed.
func eventsOf(jobs []*eventJob) []*roomkeys.Event {
	events := make([]*roomkeys.Event, 0, len(jobs))
	for _, job := range jobs {
		if job != nil {
			events = append(events, &job.Event)
		}
	}
	return events
}

// Open decrypts and judges a batch of events, also those in clear, and returns one Opened
// for each Incoming, in order. It takes a few queries and one write per batch, whatever its
// size, and waits for keys only as Incoming.Wait allows. An error means that events to be
// shown later could not be stored, or that the client is gone: the client must not get the
// response, but repeat its request.
func (d *Device) Open(ctx context.Context, in []Incoming) ([]Opened, error) {
	out, jobs, by := d.open(ctx, in)
	if ctx.Err() != nil { // the client is gone, and repeats its request
		return nil, context.Cause(ctx)
	}
	events := judgedEvents(in, jobs, out)
	if err := d.late.Remember(ctx, events, by.basis()); err != nil {
		return nil, err
	}
	for i := range events {
		out[i].Hidden = events[i].Hidden
	}
	return out, nil
}

// open is Open without storing events to be delivered again.
func (d *Device) open(ctx context.Context, in []Incoming) (out []Opened, jobs []*eventJob, by *judgement) {
	out, jobs = make([]Opened, len(in)), make([]*eventJob, len(in))
	keys := d.inbound.Stored()
	parallel.Each(len(in), func(i int) { jobs[i] = parseEventJob(in[i]) })
	var sealed []*eventJob
	for i, job := range jobs {
		if job == nil { // our parser refuses it: it stays as it came (attack A26)
			out[i] = Opened{Event: in[i].Event, Hidden: d.eng.opts.Undecryptable != UndecryptableEvent}
			continue
		}
		if job.Ciphertext != "" && job.Err == nil {
			sealed = append(sealed, job)
		}
	}
	d.inbound.Decrypt(ctx, eventsOf(sealed))
	d.inbound.Decrypt(ctx, eventsOf(d.fetchMissing(ctx, sealed)))
	by, err := d.judgementFor(ctx, jobs)
	if err != nil { // nothing can be judged, so nothing is shown
		d.inbound.Fail(eventsOf(sealed), err)
		by = &judgement{policy: d.core.Env.Policy()}
	}
	by.keys = keys
	parallel.Each(len(jobs), func(i int) {
		if jobs[i] != nil {
			out[i] = d.judge(jobs[i], by)
		}
	})
	return out, jobs, by
}

// fetchMissing fetches the missing keys of events from the backup. It returns the events to
// decrypt again: those that may wait, and whose fetch has ended.
func (d *Device) fetchMissing(ctx context.Context, jobs []*eventJob) []*eventJob {
	var missing []*eventJob
	var keys []ownbackup.WantedKey
	for _, job := range jobs {
		if errors.Is(job.Err, roomkeys.ErrNoKey) || errors.Is(job.Err, roomkeys.ErrTooEarly) {
			missing, keys = append(missing, job), append(keys, ownbackup.WantedKey{Ref: job.Ref, Wait: job.wait})
		}
	}
	ended := d.backups.Fetch(ctx, keys)
	return slices.DeleteFunc(missing, func(job *eventJob) bool { return job.wait <= 0 || !ended[job.Ref] })
}

// parseEventJob parses an event strictly; nil when it is malformed.
func parseEventJob(in Incoming) *eventJob {
	event, err := strictjson.Parse(in.Event)
	if err != nil {
		return nil
	}
	job := &eventJob{room: in.RoomID, event: event, redeliver: in.Redeliver, order: in.Order, wait: in.Wait, hold: in.Hold}
	sender, ok := event.Text("sender")
	eventType, typed := event.Text("type")
	eventID, _ := event.Text("event_id")
	if !ok || !typed || len(sender) > wire.MaxIDLength || len(eventID) > wire.MaxIDLength {
		return nil
	}
	job.Sender, job.ID, job.Type = id.UserID(sender), id.EventID(eventID), eventType
	if n, err := strconv.ParseInt(string(event.Get("origin_server_ts")), 10, 64); err == nil {
		job.Timestamp = n
	}
	if claimed, ok := event.Text("room_id"); ok && id.RoomID(claimed) != in.RoomID && in.RoomID != "" {
		job.Err = roomkeys.ErrFailed
	}
	if eventType != "m.room.encrypted" || event.Get("state_key") != nil {
		return job
	}
	if job.outer, err = strictjson.Parse(event.Get("content")); err != nil {
		job.Ciphertext, job.Err = "?", strictjson.ErrMalformed
		return job
	}
	if len(job.outer) == 0 {
		return job // redacted
	}
	algorithm, _ := job.outer.Text("algorithm")
	sessionID, _ := job.outer.Text("session_id")
	cipher, ok := job.outer.Text("ciphertext")
	job.Ref, job.Ciphertext = store.SessionRef{RoomID: in.RoomID, SessionID: id.SessionID(sessionID)}, cipher
	if eventID == "" || algorithm != wire.AlgorithmMegolm || sessionID == "" || len(sessionID) > wire.MaxIDLength || !ok || cipher == "" {
		job.Ref = store.SessionRef{}
		job.Ciphertext, job.Err = "?", strictjson.ErrMalformed
	}
	return job
}

// Undecryptable is what a client is shown of an event that cannot be decrypted. In every
// case it gets the clear event when the key arrives.
type Undecryptable int

const (
	// UndecryptableHold shows nothing at first, because many keys arrive a moment after
	// their event. After that, or at once if the key will not come, it shows a placeholder.
	// Some clients answer every encrypted event that they see.
	UndecryptableHold Undecryptable = iota
	// UndecryptablePlaceholder shows a placeholder at once.
	UndecryptablePlaceholder
	// UndecryptableEvent shows the event as it came.
	UndecryptableEvent
)

// unreadable returns what a client is shown of an event that cannot be decrypted.
func (d *Device) unreadable(job *eventJob, v trustcache.Verdict) Opened {
	if d.eng.opts.Undecryptable == UndecryptableEvent {
		return job.asCame(v)
	}
	out := job.placeholder(v, unreadableText(v))
	out.Withheld = true
	return out
}

// unreadableText returns the text of that placeholder.
func unreadableText(v trustcache.Verdict) string {
	if v.Code == trustcache.CodeMissingRoomKey {
		return "Waiting for a message that cannot be read yet. It is shown when it can be."
	}
	return v.Message
}
