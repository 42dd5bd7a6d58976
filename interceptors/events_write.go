package interceptors

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/filter"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/spool"
)

// The second pass over a body with events: it is copied from the spool to the client, and
// changed at the marks of the plan. Events are opened in batches, so that memory does not
// grow with the body.

const (
	maxBatchEvents = 1024
	maxBatchBytes  = 512 << 10
	maxBatchMarks  = 1024
)

// eventWriter is the state that all second passes share.
type eventWriter struct {
	dev            Device
	graphs         *eventGraphs
	filter         *filter.Filter
	showEncryption bool
	body           *spool.Spool
	plan           *planReader
	edit           *jsonscan.Editor
	// other applies the marks that are not about an event; nil when there are none.
	other func(k *pendingMark) error

	batch openBatch
	works []pendingMark
	past  histories
	// wait is how long the whole answer may wait for keys from the backup.
	wait time.Duration
	// entries are the rooms of the entries that have marks, in order.
	entries []id.RoomID
	// The room of the marks that are being read.
	readRoom  id.RoomID
	encrypted bool

	kept  bool // a marked event of the list is kept, or late ones were put in front
	comma bool // the first event of the list needs a comma in front, if it is kept
	front bool // the next mark is the first event of a list that begins with late ones, or might
}

// pendingMark is a mark with what is needed to apply it.
type pendingMark struct {
	mark
	encrypted bool // its room is encrypted
	event     int  // index in the batch, -1: none
	order     e2ee.Order
	bad       bool
}

// filtered applies the client's filter to an event of a timeline as shown; nil when it does
// not pass.
func (w *eventWriter) filtered(room id.RoomID, event []byte, fields bool) []byte {
	if w.filter == nil {
		return event
	}
	h, err := w.graphs.headOf(event)
	if err != nil || !w.filter.Timeline().Passes(room, h.filtered()) {
		return nil
	}
	if !fields {
		return event
	}
	return w.chosenFields(event)
}

// chosenFields applies event_fields. An event with an ambiguous type stays whole.
func (w *eventWriter) chosenFields(event []byte) []byte {
	if w.filter == nil || w.filter.Tree == nil {
		return event
	}
	out, err := w.filter.Tree.Project(event)
	if err != nil {
		return event
	}
	return out
}

// run writes the response's body to out.
func (w *eventWriter) run(ctx context.Context, out io.Writer) error {
	w.edit = jsonscan.NewEditor(out, w.body.Reader())
	for more := true; more; {
		var err error
		if more, err = w.gather(); err != nil {
			return err
		}
		if err = w.open(ctx); err != nil {
			return err
		}
		for i := range w.works {
			if err = w.do(&w.works[i]); err != nil {
				return fmt.Errorf("rewrite the response: %w", err)
			}
		}
		w.works = w.works[:0]
		w.batch.reset()
	}
	return w.edit.Close()
}

// open opens the batch. All batches together wait for keys no longer than wait.
func (w *eventWriter) open(ctx context.Context) error {
	began := time.Now()
	err := w.batch.open(ctx, w.dev, w.wait)
	w.wait = max(w.wait-time.Since(began), 0)
	return err
}

// open opens all events of the batch, and may wait for keys from the backup.
func (b *openBatch) open(ctx context.Context, dev Device, wait time.Duration) error {
	if len(b.incoming) == 0 {
		return nil
	}
	for i := range b.incoming {
		b.incoming[i].Wait = wait
	}
	var err error
	if b.opened, err = dev.Open(ctx, b.incoming); err != nil {
		return fmt.Errorf("open %d events: %w", len(b.incoming), err)
	}
	if len(b.opened) != len(b.incoming) {
		return fmt.Errorf("open %d events: got %d", len(b.incoming), len(b.opened))
	}
	return nil
}

// gather reads marks until a batch is full, and reports whether there are more.
func (w *eventWriter) gather() (more bool, err error) {
	events, size := 0, int64(0)
	for more = true; more && len(w.works) < maxBatchMarks && events < maxBatchEvents && size < maxBatchBytes; {
		m, err := w.plan.next()
		if errors.Is(err, io.EOF) {
			more = false
			break
		}
		if err != nil {
			return false, err
		}
		next := pendingMark{mark: m, event: -1, encrypted: w.encrypted}
		switch m.kind {
		case markRoom:
			if m.section == sectionEntry && len(w.entries) > 0 {
				m.room, w.entries = w.entries[0], w.entries[1:]
			}
			w.readRoom, w.encrypted = m.room, m.room != "" && w.dev.KnownEncrypted(m.room)
		case markEvent:
			if m.has(flagPlain) {
				next.order = w.past.order(position(m.flags>>positionShift), m.start)
			}
			if next.wanted() {
				events++
				size += m.end - m.start
			}
		case markFront, markBack, markDropEvent, markDropMember, markTimelineEnd, markRoomEnd, markSectionEnd, markRoomsEnd, markEnd:
		}
		next.room = w.readRoom
		w.works = append(w.works, next)
	}
	return more, w.read()
}

// wanted reports whether the event of a mark must be read.
func (k *pendingMark) wanted() bool {
	return k.kind == markEvent && !k.has(flagLarge) && !k.has(flagWithheld) && (k.opened() || k.has(flagReserved) || k.has(flagFields))
}

func (k *pendingMark) opened() bool { return k.has(flagSealed) || k.has(flagPlain) && k.encrypted }

// maxGap is how many bytes between two wanted events are read along with them.
const maxGap = 2 << 10

// read reads the wanted events from the body into the batch, neighbours in one piece.
func (w *eventWriter) read() error {
	for i := 0; i < len(w.works); {
		if !w.works[i].wanted() {
			i++
			continue
		}
		from, to, last := w.works[i].start, w.works[i].end, i
		for j := i + 1; j < len(w.works); j++ {
			k := &w.works[j]
			if !k.wanted() {
				continue
			}
			if k.start-to > maxGap {
				break
			}
			to, last = k.end, j
		}
		piece := make([]byte, to-from)
		if _, err := w.body.ReadAt(piece, from); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for ; i <= last; i++ {
			if k := &w.works[i]; k.wanted() {
				w.take(k, piece[k.start-from:k.end-from:k.end-from])
			}
		}
	}
	return nil
}

// take adds an event to the batch. One that cannot be cleaned is removed, and the rest of
// the answer is delivered.
func (w *eventWriter) take(k *pendingMark, raw []byte) {
	shut := !k.has(flagSealed) && !k.has(flagPlain)
	h := eventHead{types: 1, neverOpened: shut, ciphertext: true}
	if k.has(flagSealed) {
		h.typ = []byte(typeEncrypted)
	}
	if k.has(flagAmbiguous) {
		h.types = 2
	}
	bundled := 0
	if k.has(flagReserved) {
		var err error
		if raw, err = w.graphs.stripReserved(raw); err != nil {
			k.bad = true
			return
		}
		if h, err = w.graphs.headOf(raw); err != nil {
			k.bad = true
			return
		}
		h.neverOpened = shut // only events of a timeline are opened
		bundled = maxBundled
	}
	k.event = w.batch.add(k.room, k.encrypted, raw, &h, k.order, bundled)
}

// do applies one mark.
func (w *eventWriter) do(k *pendingMark) error {
	switch k.kind {
	case markRoom:
		return nil
	case markEvent:
		return w.doEvent(k)
	case markDropEvent:
		w.enter(k)
		return w.dropEvent(k)
	case markDropMember:
		return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Delete, Start: k.start, End: k.end, Sep: k.sep, Before: k.has(flagBefore)})
	case markFront, markBack, markTimelineEnd, markRoomEnd, markSectionEnd, markRoomsEnd, markEnd:
		if w.other != nil {
			return w.other(k)
		}
	}
	return fmt.Errorf("mark %d is not known", k.kind)
}

// enter records that a list of events begins, when one does.
func (w *eventWriter) enter(k *pendingMark) {
	if k.has(flagFresh) && !w.front {
		w.kept, w.comma = false, false
	}
	w.front = false
}

func (w *eventWriter) doEvent(k *pendingMark) error {
	w.enter(k)
	// What cannot be read is kept, unless clients could take it for something that it is not.
	unsafe := k.has(flagLarge) && (k.has(flagReserved) || k.has(flagPlain))
	if k.bad || unsafe || k.has(flagWithheld) {
		return w.dropEvent(k)
	}
	if k.event < 0 {
		return w.keepEvent(k)
	}
	event, opened := w.batch.event(k.event)
	if event != nil && opened {
		if t := w.batch.typeOf(k.event); t == typeEncryption && !w.showEncryption {
			event = nil
		}
	}
	if event != nil && (k.has(flagSealed) || opened) {
		event = w.filtered(k.room, event, false)
	}
	if event == nil {
		return w.dropEvent(k)
	}
	if k.has(flagFields) {
		event = w.chosenFields(event)
	}
	comma := w.comma
	w.comma, w.kept = false, true
	return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Replace, Start: k.start, End: k.end, Before: comma, Data: event})
}

func (w *eventWriter) keepEvent(k *pendingMark) error {
	comma := w.comma
	w.comma, w.kept = false, true
	if !comma {
		return nil
	}
	return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Replace, Start: k.start, End: k.start, Before: true})
}

// emptyMessage replaces an event that cannot be left out: an empty message.
const emptyMessage = `{"type":"m.room.message","event_id":"","sender":"","origin_server_ts":0,"content":{}}`

func (w *eventWriter) dropEvent(k *pendingMark) error {
	switch {
	case k.has(flagWhole):
		return apierr.NotFound("There is no such event.")
	case k.has(flagSingle):
		return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Replace, Start: k.start, End: k.end, Data: []byte(emptyMessage)})
	}
	w.comma = false
	return w.edit.Apply(jsonscan.Edit{
		Op: jsonscan.Delete, Start: k.start, End: k.end, Sep: k.sep, Before: w.kept || k.has(flagBefore),
	})
}
