package interceptors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/jsonscan"
)

// What the proxy adds to a sync response: late events, notices, to-device events, warnings.

// added returns the events to put into the timeline of a room that has none, and deletes
// them here.
func (w *syncWriter) added(room id.RoomID) []json.RawMessage {
	events := slices.Concat(w.extras.Late[room], w.extras.Notices[room])
	delete(w.extras.Late, room)
	delete(w.extras.Notices, room)
	return events
}

// insertAdded adds the events for the room at the end of an object, if there are any.
func (w *syncWriter) insertAdded(k *pendingMark, write func(*bytes.Buffer, []json.RawMessage)) error {
	events := w.added(k.room)
	if len(events) == 0 {
		return nil
	}
	var out bytes.Buffer
	write(&out, events)
	return w.insertMembers(k, &out)
}

func (w *syncWriter) insertMembers(k *pendingMark, members *bytes.Buffer) error {
	if members.Len() == 0 {
		return nil
	}
	return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Insert, Start: k.start, Before: k.has(flagBefore), Data: members.Bytes()})
}

// doEnd adds what is missing at the end of rooms.join, of rooms, or of the response.
func (w *syncWriter) doEnd(k *pendingMark) error {
	var out bytes.Buffer
	switch k.kind {
	case markSectionEnd:
		w.writeAbsent(&out)
	case markRoomsEnd:
		w.writeJoin(&out)
	case markEnd:
		if len(w.absent) > 0 {
			out.WriteString(`"rooms":{`)
			w.writeJoin(&out)
			out.WriteByte('}')
		}
		if err := w.writeTop(&out); err != nil {
			return err
		}
	case markRoom, markFront, markBack, markEvent, markDropEvent, markDropMember, markTimelineEnd, markRoomEnd:
	}
	return w.insertMembers(k, &out)
}

func (w *syncWriter) writeJoin(out *bytes.Buffer) {
	if len(w.absent) == 0 {
		return
	}
	out.WriteString(`"join":{`)
	w.writeAbsent(out)
	out.WriteByte('}')
}

// writeAbsent writes entries for rooms that the response does not have.
func (w *syncWriter) writeAbsent(out *bytes.Buffer) {
	for i, room := range w.absent {
		if i > 0 {
			out.WriteByte(',')
		}
		writeName(out, string(room))
		out.WriteByte('{')
		writeTimeline(out, w.added(room))
		out.WriteByte('}')
	}
	w.absent = nil
}

func (w *syncWriter) writeTop(out *bytes.Buffer) error {
	if len(w.extras.ToDevice) > 0 {
		if out.Len() > 0 {
			out.WriteByte(',')
		}
		clean := make([]json.RawMessage, 0, len(w.extras.ToDevice))
		for _, e := range w.extras.ToDevice {
			stripped, err := w.graphs.stripReserved(e)
			if err != nil {
				continue
			}
			clean = append(clean, stripped)
		}
		out.WriteString(`"to_device":{`)
		writeList(out, "events", clean)
		out.WriteByte('}')
	}
	if len(w.extras.Warnings) == 0 {
		return nil
	}
	warnings, err := json.Marshal(w.extras.Warnings)
	if err != nil {
		return fmt.Errorf("write warnings: %w", err)
	}
	if out.Len() > 0 {
		out.WriteByte(',')
	}
	writeName(out, nameWarnings)
	out.Write(warnings)
	return nil
}

// writeTimeline writes a room's timeline member.
func writeTimeline(out *bytes.Buffer, events []json.RawMessage) {
	out.WriteString(`"timeline":{`)
	writeList(out, "events", events)
	out.WriteString(`,"limited":false}`)
}

func writeList(out *bytes.Buffer, name string, elements []json.RawMessage) {
	writeName(out, name)
	out.WriteByte('[')
	writeElements(out, elements)
	out.WriteByte(']')
}

func writeElements(out *bytes.Buffer, elements []json.RawMessage) {
	for i, e := range elements {
		if i > 0 {
			out.WriteByte(',')
		}
		out.Write(e)
	}
}

func writeName(out *bytes.Buffer, name string) {
	quoted, err := json.Marshal(name)
	if err != nil { // a string always marshals
		quoted = []byte(`""`)
	}
	out.Write(quoted)
	out.WriteByte(':')
}
