package rewrite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/jsonscan"
)

// The second pass over a body with events: it is copied from the spool to the client, and
// changed at the marks of the plan. Events are opened in batches, so that memory does not
// grow with the body.

const (
	maxBatchEvents = 1024
	maxBatchBytes  = 512 << 10
	maxBatchMarks  = 1024
)

// relayFirst is how much of a body is written to memory before the answer begins, in bytes.
const relayFirst = 16 << 10

// writer copies one body to the client, changed at the marks of its plan: the second pass.
type writer struct {
	*Body
	out  Output
	plan *planReader
	edit *jsonscan.Editor

	batch batch
	works []pendingMark
	past  histories
	// entries are the rooms of the entries that have marks and are still to come.
	entries []id.RoomID
	// wait is how long the rest of the answer may wait for keys from the backup.
	wait time.Duration
	// The room of the marks that are being read.
	readRoom  id.RoomID
	encrypted bool

	anyKept bool // a marked event of the list is kept, or others were put in front
	comma   bool // the first event of the list needs a comma in front, if it is kept
	front   bool // the next mark is the first event of a list that begins with others, or might

	left int // how many events of timelines' lists are left out
}

func (b *Body) writer(o Output) *writer {
	return &writer{
		Body: b, out: o, plan: newPlanReader(b.plan), past: b.shown, entries: b.marks, wait: o.Wait,
		batch: batch{graphs: &b.rewriter.graphs, redeliver: o.Redeliver, hold: o.Hold, page: o.Page, hideEncryption: !b.rewriter.options.ShowEncryption},
	}
}

// pendingMark is a mark with what is needed to apply it.
type pendingMark struct {
	mark
	encrypted bool // its room is encrypted
	event     int  // index in the batch, -1: none
	order     e2ee.Order
	bad       bool
}

// Relay rewrites the body into an answer to the client: the second pass. Nothing of it goes
// on after it has returned.
func (b *Body) Relay(x *exchange.Exchange, resp *http.Response, o Output) error {
	ctx, cancel := context.WithCancel(x.Request.Context())
	out, to := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		to.CloseWithError(b.writer(o).run(ctx, to))
	}()
	defer func() {
		cancel()
		_ = out.Close()
		<-done
	}()
	// Before the answer has begun, an error can still be returned, and a short answer gets a
	// length.
	first := make([]byte, relayFirst)
	n, err := io.ReadFull(out, first)
	whole := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err != nil && !whole {
		return fmt.Errorf("rewrite the response: %w", err)
	}
	size := int64(-1)
	if whole {
		size = int64(n)
	}
	setSize(resp, size)
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(first[:n]), out), resp.Body}
	return x.Upstream.Relay(x, resp)
}

// setSize makes a response's header that of another body; its size is -1 if it is not known.
func setSize(resp *http.Response, size int64) {
	for _, name := range []string{"Content-Length", "Etag", "Content-Md5", "Digest", "Repr-Digest", "Content-Digest", "Accept-Ranges"} {
		resp.Header.Del(name)
	}
	resp.ContentLength = size
	if size >= 0 {
		resp.Header.Set("Content-Length", strconv.FormatInt(size, 10))
	}
}

// run writes the body.
func (w *writer) run(ctx context.Context, out io.Writer) error {
	w.edit = jsonscan.NewEditor(out, w.kept.Reader())
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

// open asks the engine for all events of the batch. All batches together wait for keys no
// longer than the output says.
func (w *writer) open(ctx context.Context) error {
	in := w.batch.incoming
	if len(in) == 0 {
		return nil
	}
	for i := range in {
		in[i].Wait = w.wait
	}
	began := time.Now()
	opened, err := w.out.Device.Open(ctx, in)
	w.wait = max(w.wait-time.Since(began), 0)
	if err != nil {
		return fmt.Errorf("open %d events: %w", len(in), err)
	}
	if len(opened) != len(in) {
		return fmt.Errorf("open %d events: got %d", len(in), len(opened))
	}
	w.batch.opened = opened
	return nil
}

// gather reads marks until a batch is full, and reports whether there are more.
func (w *writer) gather() (more bool, err error) {
	events, size := 0, int64(0)
	for more = true; more && len(w.works) < maxBatchMarks && events < maxBatchEvents && size < maxBatchBytes; {
		w.works = append(w.works, pendingMark{event: -1, encrypted: w.encrypted})
		next := &w.works[len(w.works)-1]
		m := &next.mark
		if err := w.plan.next(m); errors.Is(err, io.EOF) {
			more, w.works = false, w.works[:len(w.works)-1]
			break
		} else if err != nil {
			return false, err
		}
		switch m.kind {
		case markRoom, markEntry:
			if m.kind == markEntry && len(w.entries) > 0 {
				m.room, w.entries = w.entries[0], w.entries[1:]
			}
			w.readRoom, w.encrypted = m.room, m.room != "" && w.out.Device.KnownEncrypted(m.room)
		case markEvent:
			if m.has(flagPlain) {
				next.order = w.past.order(Position(m.flags>>positionShift), m.start)
			}
			if next.wanted() {
				events++
				size += m.end - m.start
			}
		case markFront, markBack, markDropEvent, markDropMember, markEnd:
		}
		next.room = w.readRoom
	}
	return more, w.read()
}

// wanted reports whether the event of a mark must be read.
func (k *pendingMark) wanted() bool {
	return k.kind == markEvent && !k.has(flagLarge) && !k.has(flagWithheld) &&
		(k.opened() || k.has(flagReserved) || k.has(flagFields) || k.has(flagStandIn))
}

func (k *pendingMark) opened() bool { return k.has(flagSealed) || k.has(flagPlain) && k.encrypted }

// maxGap is how many bytes between two wanted events are read along with them.
const maxGap = 2 << 10

// read reads the wanted events from the body into the batch, neighbours in one piece.
func (w *writer) read() error {
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
		if _, err := w.kept.ReadAt(piece, from); err != nil && !errors.Is(err, io.EOF) {
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
func (w *writer) take(k *pendingMark, raw []byte) {
	shut := !k.has(flagSealed) && !k.has(flagPlain)
	h := head{types: 1, neverOpened: shut}
	if k.has(flagSealed) {
		h.typ = []byte(typeEncrypted)
	}
	if k.has(flagAmbiguous) {
		h.types = 2
	}
	depth := unflagged
	if k.has(flagReserved) {
		var err error
		if raw, err = w.rewriter.graphs.clean(raw, w.batch.hideEncryption); err != nil {
			k.bad = true
			return
		}
		if h, err = w.rewriter.graphs.headOf(raw); err != nil {
			k.bad = true
			return
		}
		h.neverOpened = shut // only events of a timeline are opened
		depth = maxBundled
	}
	k.event = w.batch.add(k.room, k.encrypted, raw, &h, k.order, depth)
}

// do applies one mark.
func (w *writer) do(k *pendingMark) error {
	switch k.kind {
	case markRoom, markEntry:
		return nil
	case markEvent:
		return w.doEvent(k)
	case markDropEvent:
		w.enter(k)
		return w.dropEvent(k)
	case markDropMember:
		return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Delete, Start: k.start, End: k.end, Sep: k.sep, Before: k.has(flagBefore)})
	case markFront:
		return w.doFront(k)
	case markBack:
		return w.doBack(k)
	case markEnd:
		return w.add(k, int(k.flags>>tagShift), k.has(flagBefore))
	}
	return fmt.Errorf("mark %d is not known", k.kind)
}

// enter records that a list of events begins, when one does.
func (w *writer) enter(k *pendingMark) {
	if k.has(flagFresh) && !w.front {
		w.anyKept, w.comma = false, false
	}
	w.front = false
}

func (w *writer) doEvent(k *pendingMark) error {
	w.enter(k)
	// What cannot be read is kept, unless clients could take it for something that it is not.
	unsafe := k.has(flagLarge) && (k.has(flagReserved) || k.has(flagPlain))
	if k.bad || unsafe || k.has(flagWithheld) {
		return w.dropEvent(k)
	}
	if k.event < 0 {
		return w.keepEvent(k)
	}
	if k.has(flagStandIn) {
		return w.dropEvent(k)
	}
	event, opened := w.batch.event(k.event)
	if event != nil && !k.has(flagSingle) && (k.has(flagSealed) || opened) && !k.has(flagUnfiltered) {
		event = w.filtered(k.room, event)
	}
	if event == nil {
		return w.dropEvent(k)
	}
	if k.has(flagFields) {
		event = w.chosenFields(event)
	}
	comma := w.comma
	w.comma, w.anyKept = false, true
	return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Replace, Start: k.start, End: k.end, Before: comma, Data: event})
}

func (w *writer) keepEvent(k *pendingMark) error {
	comma := w.comma
	w.comma, w.anyKept = false, true
	if !comma {
		return nil
	}
	return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Replace, Start: k.start, End: k.start, Before: true})
}

// standIn returns what replaces an event that cannot be left out: an empty message. With the ID
// of the event clients find it where they asked for it, and go on from there.
func (w *writer) standIn(k *pendingMark) []byte {
	empty := struct {
		Type    string   `json:"type"`
		EventID string   `json:"event_id"`
		Sender  string   `json:"sender"`
		Time    int64    `json:"origin_server_ts"`
		Content struct{} `json:"content"`
	}{Type: typeMessage}
	if k.event >= 0 && !w.batch.events[k.event].imitates {
		var e struct {
			EventID string `json:"event_id"`
			Time    int64  `json:"origin_server_ts"`
		}
		if jsonv2.Unmarshal(w.batch.events[k.event].raw, &e) == nil {
			empty.EventID, empty.Time = e.EventID, e.Time
		}
	}
	out, err := json.Marshal(empty)
	if err != nil { // it always marshals
		return []byte(`{}`)
	}
	return out
}

func (w *writer) dropEvent(k *pendingMark) error {
	switch {
	case k.has(flagWhole):
		return apierr.NotFound("There is no such event.")
	case k.has(flagSingle):
		return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Replace, Start: k.start, End: k.end, Data: w.standIn(k)})
	}
	if k.has(flagListed) {
		w.left++
	}
	w.comma = false
	return w.edit.Apply(jsonscan.Edit{
		Op: jsonscan.Delete, Start: k.start, End: k.end, Sep: k.sep, Before: w.anyKept || k.has(flagBefore),
	})
}
