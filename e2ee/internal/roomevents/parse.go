package roomevents

import (
	"encoding/json"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/wire"
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
	said  strictjson.Object // content of the clear event, once it is shown

	redeliver bool
	order     Order
	wait      time.Duration
	hold      bool
	code      trustcache.Code // why it cannot be decrypted
	empty     bool            // it came encrypted, and was redacted
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

// parseEventJob parses an event strictly; nil when it can be read in two ways, or is no event. One
// without a sender or with an ID that is none is broken, and marked as what it is.
func parseEventJob(in Incoming) *eventJob {
	event, err := strictjson.Parse(in.Event)
	if err != nil {
		return nil
	}
	job := &eventJob{room: in.RoomID, event: event, redeliver: in.Redeliver, order: in.Order, wait: in.Wait, hold: in.Hold}
	sender, ok := event.Text("sender")
	eventType, typed := event.Text("type")
	eventID, _ := event.Text("event_id")
	if !typed {
		return nil
	}
	broken := !ok || len(sender) > wire.MaxIDLength || len(eventID) > wire.MaxIDLength
	if broken {
		sender, eventID = "", ""
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
	if job.outer, err = strictjson.Parse(event.Get("content")); err != nil || broken {
		job.Ciphertext, job.Err = "?", strictjson.ErrMalformed
		return job
	}
	if job.redacted() {
		job.showRedacted()
		return job
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

// redacted reports whether nothing is left of an encrypted event, because it was redacted.
func (job *eventJob) redacted() bool {
	if len(job.outer) == 0 {
		return true
	}
	if job.outer.Get("ciphertext") != nil {
		return false
	}
	return job.event.Object("unsigned").Get("redacted_because") != nil || job.event.Get("redacted_because") != nil
}

// showRedacted makes a redacted event an empty message. What it was stood in the cipher text,
// and a client without encryption would take an encrypted event for one that it cannot read.
func (job *eventJob) showRedacted() {
	job.empty = true
	job.Type = "m.room.message"
	job.event = job.event.Set("type", strictjson.Quote(job.Type)).Set("content", json.RawMessage(`{}`))
}
