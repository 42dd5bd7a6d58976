package unread

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/roomevents"
	"e2ee-proxy/internal/strictjson"
)

// Seen is an encrypted event of a timeline as a client is shown it.
type Seen struct {
	RoomID id.RoomID
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
		one := Seen{RoomID: in[i].RoomID, Raw: in[i].Event}
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
