package rewrite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/exchange"
	"e2ee-proxy/internal/jsonscan"
	"e2ee-proxy/internal/spool"
)

// Device opens events, see [exchange.Device].
type Device interface {
	KnownEncrypted(room id.RoomID) bool
	LoadRooms(ctx context.Context, rooms []id.RoomID) (heard int, err error)
	Open(ctx context.Context, in []e2ee.Incoming) ([]e2ee.Opened, error)
}

// Output is how a body is written.
type Output struct {
	Device Device
	// Redeliver, Hold and Page are those of the events, see [e2ee.Incoming].
	Redeliver, Hold, Page bool
	// Wait is how long the whole answer may wait for keys from the backup.
	Wait time.Duration
	// Added returns what is added at a place that a hook has marked, by the tag of
	// [Found.Extend] or by [Front] and [Back]: members or events with commas between them.
	// It may be nil when no hook marks any. What it returns is used before the next call.
	Added func(tag int, room id.RoomID) ([]byte, error)
}

// Rendered is a body as the client is to get it, before any of it goes out.
type Rendered struct {
	// Shown is how many events are left in lists of timelines.
	Shown int
	as    *spool.Spool
}

// Render is the second pass for a caller that decides about its outcome: it is kept instead of
// relayed. Close must be called afterwards, unless there is an error.
func (b *Body) Render(ctx context.Context, o Output) (*Rendered, error) {
	r := &Rendered{as: b.rewriter.options.Spools.New(b.pass.Owner, 0)}
	w := b.writer(o)
	if err := w.run(ctx, r.as); err != nil {
		if full := exchange.SpoolFailure(err); full != nil {
			err = full
		}
		return nil, errors.Join(fmt.Errorf("rewrite the response: %w", err), r.Close())
	}
	r.Shown = b.listed - w.left
	return r, nil
}

// Relay answers the client.
func (r *Rendered) Relay(x *exchange.Exchange, resp *http.Response) error {
	setSize(resp, r.as.Size())
	resp.Body = struct {
		io.Reader
		io.Closer
	}{r.as.Reader(), resp.Body}
	return x.Upstream.Relay(x, resp)
}

// Close gives back what the body was kept in.
func (r *Rendered) Close() error { return r.as.Close() }

// Tags of the places in a list of events where others may be put.
const (
	Front = -1 - iota
	Back
)

// added returns what is added at a place.
func (w *writer) added(k *pendingMark, tag int) ([]byte, error) {
	if w.out.Added == nil {
		return nil, nil
	}
	data, err := w.out.Added(tag, k.room)
	if err != nil {
		return nil, fmt.Errorf("add to a body: %w", err)
	}
	return data, nil
}

// add adds something before the end of an object.
func (w *writer) add(k *pendingMark, tag int, comma bool) error {
	data, err := w.added(k, tag)
	if err != nil || len(data) == 0 {
		return err
	}
	return w.edit.Apply(jsonscan.Edit{Op: jsonscan.Insert, Start: k.start, Before: comma, Data: data})
}

// doFront puts events in front of those of a list.
func (w *writer) doFront(k *pendingMark) error {
	w.anyKept, w.comma, w.front = false, false, k.has(flagTouched)
	events, err := w.added(k, Front)
	if err != nil || len(events) == 0 {
		return err
	}
	w.anyKept, w.comma = true, k.has(flagTouched)
	return w.edit.Apply(jsonscan.Edit{
		Op: jsonscan.Insert, Start: k.start, After: k.has(flagAfter) && !k.has(flagTouched), Data: events,
	})
}

// doBack puts events behind those of a list. Whether any event is kept is known only at the
// end of the list.
func (w *writer) doBack(k *pendingMark) error {
	w.front = false
	return w.add(k, Back, w.anyKept || k.has(flagBefore))
}

// handover passes what one goroutine writes to another, which reads it or has it written, without a
// copy. Each call of its writer waits until the other has taken all of it.
type handover struct {
	parts chan [][]byte
	taken chan struct{}

	left  sync.Once
	gone  chan struct{} // nobody takes any more
	ended chan struct{} // nothing follows
	err   error         // why, after ended

	now [][]byte // what is being taken
}

func newHandover() *handover {
	return &handover{parts: make(chan [][]byte), taken: make(chan struct{}, 1), gone: make(chan struct{}), ended: make(chan struct{})}
}

// Write implements io.Writer.
func (h *handover) Write(p []byte) (int, error) {
	if err := h.WriteParts([][]byte{p}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteParts implements [jsonscan.PartsWriter].
func (h *handover) WriteParts(all [][]byte) error {
	select {
	case h.parts <- all:
	case <-h.gone:
		return io.ErrClosedPipe
	}
	select {
	case <-h.taken:
		return nil
	case <-h.gone:
		return io.ErrClosedPipe
	}
}

// end says that nothing follows, because of an error or, if that is nil, because it was all. It is
// called once, by who writes.
func (h *handover) end(err error) {
	h.err = err
	if err == nil {
		h.err = io.EOF
	}
	close(h.ended)
}

// leave says that nobody takes any more. What waits in a call of the writer returns.
func (h *handover) leave() { h.left.Do(func() { close(h.gone) }) }

// next waits for parts, if there are none.
func (h *handover) next() error {
	for len(h.now) == 0 {
		select {
		case h.now = <-h.parts:
			h.done(0)
		case <-h.ended:
			return h.err
		}
	}
	return nil
}

// done says that the first n bytes of the first part were taken.
func (h *handover) done(n int) {
	if len(h.now) > 0 {
		h.now[0] = h.now[0][n:]
	}
	for len(h.now) > 0 && len(h.now[0]) == 0 {
		h.now = h.now[1:]
	}
	if len(h.now) == 0 {
		h.taken <- struct{}{}
	}
}

// Read implements io.Reader.
func (h *handover) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := h.next(); err != nil {
		return 0, err
	}
	n := copy(p, h.now[0])
	h.done(n)
	return n, nil
}

// WriteTo implements io.WriterTo.
func (h *handover) WriteTo(w io.Writer) (done int64, err error) {
	for {
		if err := h.next(); errors.Is(err, io.EOF) {
			return done, nil
		} else if err != nil {
			return done, err
		}
		n, err := w.Write(h.now[0])
		done += int64(n)
		if err != nil {
			return done, err //nolint:wrapcheck // an io.WriterTo passes errors on
		}
		h.done(n)
	}
}

// relayed is the body of an answer: its beginning, and what is handed over.
type relayed struct {
	first []byte
	rest  *handover
	io.Closer
}

func (r *relayed) Read(p []byte) (int, error) {
	if len(r.first) == 0 {
		return r.rest.Read(p)
	}
	n := copy(p, r.first)
	r.first = r.first[n:]
	return n, nil
}

// WriteTo implements io.WriterTo.
func (r *relayed) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(r.first)
	if r.first = r.first[n:]; err != nil {
		return int64(n), err //nolint:wrapcheck // an io.WriterTo passes errors on
	}
	more, err := r.rest.WriteTo(w)
	return int64(n) + more, err
}
