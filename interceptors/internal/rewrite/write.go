package rewrite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/apierr"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/parallel"
	jsonv2 "github.com/go-json-experiment/json"
)

// The second pass over a body with events: it is copied from the spool to the client, and
// changed at the marks of the plan, part by part (see gather.go).

// relayFirst is how much of a body is written to memory before the answer begins, in bytes.
const relayFirst = 16 << 10

// writer copies one body to the client, changed at the marks of its plan: the second pass.
type writer struct {
	*Body
	out  Output
	edit *jsonscan.Editor

	batch *batch // of the works that are being done
	// wait is how long the rest of the answer may wait for keys from the backup.
	wait time.Duration

	anyKept bool // a marked event of the list is kept, or others were put in front
	comma   bool // the first event of the list needs a comma in front, if it is kept
	front   bool // the next mark is the first event of a list that begins with others, or might

	left int // how many events of timelines' lists are left out
}

func (b *Body) writer(o Output) *writer { return &writer{Body: b, out: o, wait: o.Wait} }

// Relay rewrites the body into an answer to the client: the second pass. Nothing of it goes
// on after it has returned.
func (b *Body) Relay(x *exchange.Exchange, resp *http.Response, o Output) error {
	ctx, cancel := context.WithCancel(x.Request.Context())
	out, done := newHandover(), make(chan struct{})
	go func() {
		defer close(done)
		out.end(parallel.Try(func() error { return b.writer(o).run(ctx, out) }))
	}()
	defer func() {
		cancel()
		out.leave()
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
	resp.Body = &relayed{first[:n], out, resp.Body}
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
	if body, done, ok := w.kept.Hold(); ok {
		defer done()
		w.edit = jsonscan.NewBytesEditor(out, body)
	} else {
		w.edit = jsonscan.NewEditor(out, w.kept.Reader())
	}
	if err := w.newGatherer().each(ctx, func(p *part) error { return w.write(ctx, p) }); err != nil {
		return err
	}
	return w.edit.Close()
}

// write writes the body up to the end of a part.
func (w *writer) write(ctx context.Context, p *part) error {
	if err := w.open(ctx, p); err != nil {
		return err
	}
	w.batch = &p.batch
	for i := range p.works {
		if err := w.do(&p.works[i]); err != nil {
			return fmt.Errorf("rewrite the response: %w", err)
		}
	}
	return nil
}

// open asks the engine for all events of a part. All parts together wait for keys no longer than
// the output says.
func (w *writer) open(ctx context.Context, p *part) (err error) {
	n := len(p.batch.incoming)
	if n == 0 {
		return nil
	}
	began := time.Now()
	var opened []e2ee.Opened
	if p.prepared != nil {
		p.prepared.Wait = w.wait
		opened, err = p.by.OpenPrepared(ctx, p.prepared)
	} else {
		for i := range p.batch.incoming {
			p.batch.incoming[i].Wait = w.wait
		}
		opened, err = w.out.Device.Open(ctx, p.batch.incoming)
	}
	w.wait = max(w.wait-time.Since(began), 0)
	if err != nil {
		return fmt.Errorf("open %d events: %w", n, err)
	}
	if len(opened) != n {
		return fmt.Errorf("open %d events: got %d", n, len(opened))
	}
	p.batch.opened = opened
	return nil
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
