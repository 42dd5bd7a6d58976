package rewrite

import (
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/jsonscan"
)

// nested is a place where an event is bundled in another.
type nested struct {
	start, end int64
	// cut removes the whole relation; nil when other things are part of it.
	cut *jsonscan.Edit
	// index and inside are those of the relation, among its siblings.
	index  int
	inside int64
}

// bundledIn returns the places of the events bundled directly under an event's unsigned, in
// order.
func (g *graphs) bundledIn(event []byte) ([]nested, error) {
	var found []nested
	var typed bool
	var first int64 = -1 // of the events bundled in the relation
	err := jsonscan.ScanBytes(event, g.bundled, jsonscan.Options{}, func(v *jsonscan.Value) error {
		switch v.ID {
		case inRelationType:
			typed = true
		case inNested:
			if v.Kind == '{' {
				found = append(found, nested{start: v.Start, end: v.End})
				if first < 0 {
					first = v.Start
				}
			}
		case inRelation:
			if typed && first < 0 {
				found = append(found, nested{
					start: v.Start, end: v.End, index: v.Index, inside: v.Inside,
					cut: &jsonscan.Edit{Op: jsonscan.Delete, Start: v.Member, End: v.End, Sep: v.Sep},
				})
			}
			typed, first = false, -1
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find bundled events: %w", err)
	}
	return found, nil
}

// batch collects events for one call of Device.Open.
type batch struct {
	graphs   *graphs
	events   []batchEvent
	incoming []e2ee.Incoming
	opened   []e2ee.Opened
	// redeliver is set for the events of a sync, see [e2ee.Incoming].
	redeliver bool
	// hold is set for events of a sync that continues from an earlier one.
	hold bool
}

type batchEvent struct {
	raw      []byte
	incoming int // index, -1 when it is not opened
	nested   []int
	sealed   bool
	clear    bool // its type is unambiguous
	imitates bool // it imitates a notice of the proxy
}

// add adds an event, with its head, and returns its number. bundled is how many levels of
// bundled events may be in it.
func (b *batch) add(room id.RoomID, encrypted bool, raw []byte, h *head, order e2ee.Order, bundled int) int {
	return b.put(e2ee.Incoming{RoomID: room, Event: raw, Order: order, Redeliver: b.redeliver, Hold: b.hold}, encrypted, h, bundled)
}

func (b *batch) put(in e2ee.Incoming, encrypted bool, h *head, bundled int) int {
	raw := []byte(in.Event)
	ev := batchEvent{raw: raw, incoming: -1, sealed: string(h.typ) == typeEncrypted, clear: h.types == 1, imitates: b.graphs.imitates(raw)}
	if h.openable(encrypted) && !ev.imitates {
		ev.incoming = len(b.incoming)
		b.incoming = append(b.incoming, in)
	}
	n := len(b.events)
	b.events = append(b.events, ev)
	if bundled <= 0 {
		return n
	}
	spans, err := b.graphs.bundledIn(raw)
	if err != nil {
		return n // cannot happen: the event was scanned before
	}
	for _, s := range spans {
		inner := raw[s.start:s.end:s.end]
		innerHead, err := b.graphs.headOf(inner)
		if err != nil {
			return n
		}
		b.events[n].nested = append(b.events[n].nested, b.put(e2ee.Incoming{RoomID: in.RoomID, Event: inner}, encrypted, &innerHead, bundled-1))
	}
	return n
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
	if len(ev.nested) == 0 {
		return out, ev.incoming >= 0
	}
	spans, err := b.graphs.bundledIn(out)
	if err != nil || len(spans) != len(ev.nested) {
		return out, ev.incoming >= 0
	}
	edits := make([]jsonscan.Edit, len(spans))
	gone := make(map[int64]int) // number of removed relations, by container
	for i := range spans {
		edits[i] = b.place(&spans[i], ev.nested[i], b.mayReplace(n, ev.nested[i]), gone)
	}
	joined, err := jsonscan.Splice(out, edits)
	if err != nil {
		return nil, ev.incoming >= 0
	}
	return joined, ev.incoming >= 0
}

// place returns the edit that puts a bundled event, as the client sees it, in its place.
// One that may not replace its event is removed, with its relation.
func (b *batch) place(at *nested, n int, mayReplace bool, gone map[int64]int) jsonscan.Edit {
	inner, _ := b.event(n)
	if at.cut != nil && (inner == nil || !mayReplace) {
		cut := *at.cut
		cut.Before = at.index > gone[at.inside]
		gone[at.inside]++
		return cut
	}
	if inner == nil {
		inner = []byte("{}")
	}
	return jsonscan.Edit{Op: jsonscan.Replace, Start: at.start, End: at.end, Data: inner}
}

// mayReplace reports whether an event bundled in event n may replace it: no placeholder
// may, and nothing in clear for what was encrypted (attack A24).
func (b *batch) mayReplace(n, bundled int) bool {
	i := b.events[bundled].incoming
	if i >= 0 && b.opened[i].Withheld {
		return false
	}
	return !b.events[n].sealed || b.events[bundled].sealed
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
