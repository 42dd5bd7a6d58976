package interceptors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/interceptors/internal/rewrite"
)

// What the proxy adds to a sync response: late events, notices, to-device events, warnings, the
// control room.

// nameWarnings is the member for warnings (docs/control-api.md).
const nameWarnings = rewrite.Prefix + "warnings"

// syncAdded is what the engine has for the client besides the response. What was added is
// deleted here.
type syncAdded struct {
	e2ee.SyncExtras
	body *rewrite.Body
	// absent are the rooms of late events and notices that are not in the response.
	absent  []id.RoomID
	control controlAdded
	unread  unreadAdded
	out     bytes.Buffer // what was added last
}

// newSyncAdded returns what passes the client's filter.
func newSyncAdded(body *rewrite.Body, filter *filter.Filter, update *syncUpdate, in ClientSync, extras e2ee.SyncExtras) *syncAdded {
	rooms := update.Rooms
	a := &syncAdded{SyncExtras: extras, body: body, unread: unreadAdded{update.unread.moved, update.unread.split, in}}
	a.Late, a.Notices = a.shown(filter, extras.Late), a.shown(filter, extras.Notices)
	present := make(map[id.RoomID]bool, len(a.Late)+len(a.Notices))
	for i := range rooms {
		present[rooms[i].RoomID] = true
		if rooms[i].Section != e2ee.SectionJoin { // the user has left it
			delete(a.Notices, rooms[i].RoomID)
		}
	}
	for _, events := range []map[id.RoomID][]json.RawMessage{a.Late, a.Notices} {
		for room := range events {
			if !present[room] {
				present[room] = true
				a.absent = append(a.absent, room)
			}
		}
	}
	slices.Sort(a.absent)
	a.control = newControlAdded(body, filter, extras.Control)
	return a
}

// shown returns the events of rooms that pass the client's filter.
func (a *syncAdded) shown(filter *filter.Filter, events map[id.RoomID][]json.RawMessage) map[id.RoomID][]json.RawMessage {
	out := make(map[id.RoomID][]json.RawMessage, len(events))
	for room, list := range events {
		if !filter.WantsRoom(room) {
			continue
		}
		for _, e := range list {
			if pass := a.body.Shown(room, e); pass != nil {
				out[room] = append(out[room], pass)
			}
		}
	}
	return out
}

// at returns what is added at a place, see [rewrite.Output]. It is valid until the next call.
func (a *syncAdded) at(tag int, room id.RoomID) ([]byte, error) {
	out := &a.out
	out.Reset()
	switch tag {
	case rewrite.Front:
		writeElements(out, a.Late[room])
		delete(a.Late, room)
	case rewrite.Back:
		writeElements(out, a.Notices[room])
		delete(a.Notices, room)
	case atTimeline:
		if events := a.take(room); len(events) > 0 {
			writeEvents(out, events)
		}
	case atRoom:
		if events := a.take(room); len(events) > 0 {
			writeTimeline(out, events)
		}
		a.unread.write(out, room)
	case atRoomEnd:
		a.unread.write(out, room)
	case atSection:
		a.writeAbsent(out)
	case atLeaveSection:
		a.control.write(out, true)
	case atRooms:
		a.writeSections(out)
	case atTop:
		if len(a.absent) > 0 || a.control.entry != nil {
			out.WriteString(`"rooms":{`)
			a.writeSections(out)
			out.WriteByte('}')
		}
		if err := a.writeTop(out); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("nothing is added at %d", tag)
	}
	return out.Bytes(), nil
}

// take returns the events to put into the timeline of a room that has none.
func (a *syncAdded) take(room id.RoomID) []json.RawMessage {
	events := slices.Concat(a.Late[room], a.Notices[room])
	delete(a.Late, room)
	delete(a.Notices, room)
	return events
}

// writeSections writes the sections of rooms that the response does not have.
func (a *syncAdded) writeSections(out *bytes.Buffer) {
	if len(a.absent) > 0 || a.control.entry != nil && !a.control.leave {
		out.WriteString(`"join":{`)
		a.writeAbsent(out)
		out.WriteByte('}')
	}
	if a.control.entry != nil {
		if out.Len() > 0 && out.Bytes()[out.Len()-1] == '}' {
			out.WriteByte(',')
		}
		out.WriteString(`"leave":{`)
		a.control.write(out, true)
		out.WriteByte('}')
	}
}

// writeAbsent writes entries for joined rooms that the response does not have.
func (a *syncAdded) writeAbsent(out *bytes.Buffer) {
	defer a.control.write(out, false)
	for i, room := range a.absent {
		if i > 0 {
			out.WriteByte(',')
		}
		writeName(out, string(room))
		out.WriteByte('{')
		writeTimeline(out, a.take(room))
		a.unread.write(out, room)
		out.WriteByte('}')
	}
	a.absent = nil
}

func (a *syncAdded) writeTop(out *bytes.Buffer) error {
	if len(a.ToDevice) > 0 {
		if out.Len() > 0 {
			out.WriteByte(',')
		}
		clean := make([]json.RawMessage, 0, len(a.ToDevice))
		for _, e := range a.ToDevice {
			stripped, err := a.body.Strip(e)
			if err != nil {
				continue
			}
			clean = append(clean, stripped)
		}
		out.WriteString(`"to_device":{`)
		writeEvents(out, clean)
		out.WriteByte('}')
	}
	if len(a.Warnings) == 0 {
		return nil
	}
	warnings, err := json.Marshal(a.Warnings)
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
	writeEvents(out, events)
	out.WriteString(`,"limited":false}`)
}

// writeEvents writes the member events.
func writeEvents(out *bytes.Buffer, elements []json.RawMessage) {
	out.WriteString(`"events":[`)
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
