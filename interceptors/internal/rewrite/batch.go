package rewrite

import (
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/bundled"
	"e2ee-proxy/internal/jsonscan"
)

// batch collects events for one call of Device.Open.
type batch struct {
	graphs   *graphs
	events   []batchEvent
	incoming []e2ee.Incoming
	opened   []e2ee.Opened
	// redeliver, hold and page are those of the output.
	redeliver, hold, page bool
	// hideEncryption leaves out events by which rooms are encrypted.
	hideEncryption bool
}

type batchEvent struct {
	raw        []byte
	room       id.RoomID
	incoming   int   // index, -1 when it is not opened
	nested     []int // -1 for what may not be there
	sealed     bool
	clear      bool // its type is unambiguous
	imitates   bool // it imitates a notice of the proxy
	encryption bool // it makes a room encrypted
	reason     bool // it may say why another was redacted
	encrypted  bool // its room is
	before     bool // and it is older than that
}

// unflagged is the depth of events in which nothing can be bundled.
const unflagged = -1

// add adds an event, with its head, and returns its number. depth is how many levels of
// bundled events may be in it.
func (b *batch) add(room id.RoomID, encrypted bool, raw []byte, h *head, order e2ee.Order, depth int) int {
	return b.put(e2ee.Incoming{RoomID: room, Event: raw, Order: order, Redeliver: b.redeliver, Hold: b.hold, Page: b.page}, encrypted, h, depth)
}

func (b *batch) put(in e2ee.Incoming, encrypted bool, h *head, depth int) int {
	raw := []byte(in.Event)
	ev := batchEvent{
		raw: raw, room: in.RoomID, incoming: -1, sealed: string(h.typ) == typeEncrypted, clear: h.types == 1,
		imitates: b.graphs.imitates(raw), encryption: string(h.typ) == typeEncryption,
		reason:    h.types == 1 && (h.isState() || string(h.typ) == typeRedaction),
		encrypted: encrypted, before: in.Order == e2ee.OrderBefore,
	}
	if h.openable(encrypted) && !ev.imitates {
		ev.incoming = len(b.incoming)
		b.incoming = append(b.incoming, in)
	}
	n := len(b.events)
	b.events = append(b.events, ev)
	if depth == unflagged {
		return n
	}
	spans, err := b.graphs.bundled.Find(raw)
	if err != nil {
		b.events[n].imitates = true // cannot happen: the event was scanned before
		return n
	}
	inner := e2ee.Incoming{RoomID: in.RoomID, Page: in.Page}
	if ev.sealed || in.Order == e2ee.OrderAfter {
		inner.Order = e2ee.OrderAfter // what relates to an event is newer
	}
	for i := range spans {
		s, number := &spans[i], -1
		if !s.Refused && depth > 0 {
			inner.Event = raw[s.Start:s.End:s.End]
			// After a gap the latest edit comes only here. If its key is missing, the edit is left
			// out, and comes by itself when the key does.
			inner.Redeliver = in.Redeliver && s.IsEdit()
			number = b.putNested(inner, encrypted, depth-1)
		}
		b.events[n].nested = append(b.events[n].nested, number)
	}
	return n
}

// putNested adds an event that is bundled in another, and returns its number; -1 if it cannot
// be read.
func (b *batch) putNested(in e2ee.Incoming, encrypted bool, depth int) int {
	h, err := b.graphs.headOf(in.Event)
	if err != nil {
		return -1
	}
	return b.put(in, encrypted, &h, depth)
}

// event returns event n as the client sees it; nil when it must not be shown.
func (b *batch) event(n int) (event []byte, opened bool) {
	ev := &b.events[n]
	if ev.imitates {
		return nil, false
	}
	out := ev.raw
	if ev.incoming >= 0 {
		o := b.opened[ev.incoming]
		// An event that Open could not read cannot be judged. The ciphertext stays as it came;
		// anything else might pass for a message.
		if o.Hidden || o.Type == "" && (!ev.sealed || !ev.clear) || len(o.Event) == 0 {
			return nil, true
		}
		out = o.Event
	}
	if b.hideEncryption && (ev.encryption || b.typeOf(n) == typeEncryption) {
		return nil, ev.incoming >= 0
	}
	if len(ev.nested) == 0 {
		return out, ev.incoming >= 0
	}
	return b.withNested(n, out), ev.incoming >= 0
}

// withNested returns event n with the events bundled in it as the client sees them. A
// placeholder has none.
func (b *batch) withNested(n int, out []byte) []byte {
	spans, err := b.graphs.bundled.Find(out)
	if err != nil || len(spans) != 0 && len(spans) != len(b.events[n].nested) {
		return nil // not those that were looked at
	}
	var edits bundled.Edits
	of := b.known(n, out)
	for i := range spans {
		b.place(&edits, &spans[i], b.events[n].nested[i], &of)
	}
	joined, err := jsonscan.Splice(out, edits.List)
	if err != nil {
		return nil
	}
	return joined
}

// place puts event n, as the client sees it, where it stands in another. If it is not what the
// place says it is left out.
func (b *batch) place(edits *bundled.Edits, at *bundled.Nested, n int, of *bundled.Event) {
	if n < 0 {
		edits.LeaveOut(at, nil, false)
		return
	}
	shown, _ := b.event(n)
	event := b.known(n, shown)
	holds := at.Holds(&event, of)
	if !holds || shown == nil {
		edits.LeaveOut(at, event.Raw, holds)
		return
	}
	edits.Put(at, shown)
}

// known returns what is known of event n, of which the client is shown this.
func (b *batch) known(n int, shown []byte) bundled.Event {
	ev := &b.events[n]
	return bundled.Event{
		Raw: ev.raw, Shown: shown, Room: string(ev.room), Reason: ev.reason,
		Sealed:     ev.sealed,
		Decrypted:  ev.incoming >= 0 && b.opened[ev.incoming].Decrypted && !b.opened[ev.incoming].Withheld,
		MayBeClear: !ev.encrypted || ev.before,
	}
}

// reset empties the batch and keeps its memory.
func (b *batch) reset() {
	clear(b.events)
	clear(b.incoming)
	b.events, b.incoming, b.opened = b.events[:0], b.incoming[:0], nil
}

// typeOf returns the type of event n as the client sees it, when it was opened.
func (b *batch) typeOf(n int) string {
	if i := b.events[n].incoming; i >= 0 {
		return b.opened[i].Type
	}
	return ""
}
