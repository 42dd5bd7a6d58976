package unread

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/roomevents"
	"e2ee-proxy/internal/strictjson"
)

// Update is what a sync response says of unread messages.
type Update struct {
	Rooms []Room
	// Rules is the content of m.push_rules; nil when the response does not have it.
	Rules json.RawMessage
}

// Redacted returns the events that were redacted, each with its room.
func (u *Update) Redacted() map[id.EventID]id.RoomID {
	gone := make(map[id.EventID]id.RoomID)
	for i := range u.Rooms {
		for _, event := range u.Rooms[i].Redacted {
			gone[event] = u.Rooms[i].RoomID
		}
	}
	return gone
}

// Room is what a sync response says of a joined room.
type Room struct {
	RoomID id.RoomID
	// Timeline are the events of the timeline, Limited says that some before them are missing.
	Timeline []Event
	Limited  bool
	// Relations are those of events, by their index in the timeline.
	Relations map[int]Relation
	// Redacted are the events that redactions in the timeline redact.
	Redacted []id.EventID
	Receipts []Receipt // the user's own
	// Counts is unread_notifications; nil when the response does not have it. Threads is
	// unread_thread_notifications.
	Counts  *Counts
	Threads map[id.EventID]Counts
	// Name is the user's own name in the room, if the response says it.
	Name *string
	// Members is how many have joined; zero: not said.
	Members int
}

// Event is what matters of an event in a timeline. There may be very many, so it is small.
type Event struct {
	Ref     Ref
	At      uint32 // when it was sent, in seconds
	Sealed  bool   // it is encrypted
	Joins   bool   // the user joined by it
	Outside bool   // the user was not in the room when it was sent
}

// Relation is to what an event belongs.
type Relation struct {
	About   Ref        // what it edits, reacts to or redacts; zero: nothing
	Redacts bool       // it redacts that
	Root    id.EventID // of its thread; empty: it is in none
}

// Ref stands for the ID of an event.
type Ref uint64

// RefOf returns what stands for an event's ID; zero for an empty one.
func RefOf[T id.EventID | []byte](event T) Ref {
	if len(event) == 0 {
		return 0
	}
	h := sha256.Sum256([]byte(event))
	return Ref(binary.BigEndian.Uint64(h[:]) | 1)
}

// Receipt is a read receipt of the user: m.read or m.read.private.
type Receipt struct {
	Event     id.EventID
	Thread    string // "main", the root of a thread, or empty for the whole room
	Timestamp int64
}

const threadMain = "main"

// Seen is an encrypted event of a timeline as a client is shown it.
type Seen struct {
	RoomID id.RoomID
	// ID is the event's, if it was read before.
	ID id.EventID
	// Raw is the event as the homeserver sent it; nil when that is not known any more.
	Raw json.RawMessage
	// Clear is the decrypted event; nil when it could not be decrypted.
	Clear json.RawMessage
}

// OfSync returns those of a batch that are events of a sync.
func OfSync(in []roomevents.Incoming, out []roomevents.Opened) []Seen {
	var seen []Seen
	for i := range in {
		if !in[i].Redeliver {
			continue
		}
		one := Seen{RoomID: in[i].RoomID, Raw: in[i].Event, ID: out[i].ID}
		if out[i].Decrypted {
			one.Clear = out[i].Event
		}
		seen = append(seen, one)
	}
	return seen
}

// OfLate returns those of late events that are decrypted; the others are placeholders.
func OfLate(late map[id.RoomID][]json.RawMessage) []Seen {
	var seen []Seen
	for room, events := range late {
		for _, raw := range events {
			if event, err := strictjson.Parse(raw); err == nil && event.IsTrue("decrypted") {
				seen = append(seen, Seen{RoomID: room, Clear: raw})
			}
		}
	}
	return seen
}
