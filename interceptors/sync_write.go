package interceptors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/spool"
)

// The second pass over a sync body adds late events, notices, and what else the engine has
// for the client to what every second pass does (events_write.go).

// syncWriter is the second pass over a sync body.
type syncWriter struct {
	eventWriter
	extras e2ee.SyncExtras
	// absent are the rooms of late events and notices that are not in the response.
	absent []id.RoomID
}

// newSyncWriter prepares the second pass. rooms are those of the response.
func newSyncWriter(dev Device, graphs *eventGraphs, filter *filter.Filter, body, plan *spool.Spool, rooms []e2ee.RoomUpdate, extras e2ee.SyncExtras) *syncWriter {
	w := &syncWriter{
		eventWriter: eventWriter{
			dev: dev, graphs: graphs, filter: filter, body: body, plan: newPlanReader(plan),
			batch: openBatch{graphs: graphs, redeliver: true},
		},
		extras: extras,
	}
	w.other = w.add
	w.extras.Late, w.extras.Notices = w.shown(extras.Late), w.shown(extras.Notices)
	present := make(map[id.RoomID]bool, len(w.extras.Late)+len(w.extras.Notices))
	for i := range rooms {
		present[rooms[i].RoomID] = true
		if rooms[i].Section != e2ee.SectionJoin { // the user has left it
			delete(w.extras.Notices, rooms[i].RoomID)
		}
	}
	for _, events := range []map[id.RoomID][]json.RawMessage{w.extras.Late, w.extras.Notices} {
		for room := range events {
			if !present[room] {
				present[room] = true
				w.absent = append(w.absent, room)
			}
		}
	}
	slices.Sort(w.absent)
	return w
}

// shown returns the events of rooms that pass the client's filter.
func (w *syncWriter) shown(events map[id.RoomID][]json.RawMessage) map[id.RoomID][]json.RawMessage {
	out := make(map[id.RoomID][]json.RawMessage, len(events))
	for room, list := range events {
		if pass := w.lateEvents(room, list); len(pass) > 0 {
			out[room] = pass
		}
	}
	return out
}

// lateEvents returns the late events of a room that pass the client's filter.
func (w *syncWriter) lateEvents(room id.RoomID, events []json.RawMessage) []json.RawMessage {
	if !w.filter.WantsRoom(room) {
		return nil
	}
	var shown []json.RawMessage
	for _, e := range events {
		if out := w.filtered(room, e, true); out != nil {
			shown = append(shown, out)
		}
	}
	return shown
}

// add applies the marks of places where something may be added.
func (w *syncWriter) add(k *pendingMark) error {
	switch k.kind {
	case markFront:
		return w.doFront(k)
	case markBack:
		return w.doBack(k)
	case markTimelineEnd:
		return w.insertAdded(k, func(out *bytes.Buffer, events []json.RawMessage) { writeList(out, "events", events) })
	case markRoomEnd:
		return w.insertAdded(k, writeTimeline)
	case markSectionEnd, markRoomsEnd, markEnd:
		return w.doEnd(k)
	case markRoom, markEvent, markDropEvent, markDropMember:
	}
	return fmt.Errorf("mark %d adds nothing", k.kind)
}

func (w *syncWriter) doFront(k *pendingMark) error {
	w.kept, w.comma, w.front = false, false, k.has(flagTouched)
	events := w.extras.Late[k.room]
	if len(events) == 0 {
		return nil
	}
	delete(w.extras.Late, k.room)
	w.kept, w.comma = true, k.has(flagTouched)
	var out bytes.Buffer
	writeElements(&out, events)
	return w.edit.Apply(jsonscan.Edit{
		Op: jsonscan.Insert, Start: k.start, After: k.has(flagAfter) && !k.has(flagTouched), Data: out.Bytes(),
	})
}

// doBack puts notices behind the events of a timeline. Whether any event is kept is known
// only at the end of the list.
func (w *syncWriter) doBack(k *pendingMark) error {
	events := w.extras.Notices[k.room]
	w.front = false
	if len(events) == 0 {
		return nil
	}
	delete(w.extras.Notices, k.room)
	var out bytes.Buffer
	writeElements(&out, events)
	return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Insert, Start: k.start, Before: w.kept || k.has(flagBefore), Data: out.Bytes()})
}
