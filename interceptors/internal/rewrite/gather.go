package rewrite

import (
	"context"
	"errors"
	"io"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/parallel"
)

// Events are opened in batches, so that memory does not grow with the body. While one is judged,
// stored and written, the next is read and decrypted, if there is one and the device can do that.

const (
	maxBatchEvents = 1024
	maxBatchBytes  = 512 << 10
	maxBatchMarks  = 1024
	// partsAhead is how many others are in memory beside the one that is written.
	partsAhead = 2
)

// Preparer is a [Device] that can decrypt events before those in front of them are done. The other
// two calls come in the order of the events.
type Preparer interface {
	Prepare(ctx context.Context, in []e2ee.Incoming) *e2ee.Prepared
	Settle(ctx context.Context, p *e2ee.Prepared)
	OpenPrepared(ctx context.Context, p *e2ee.Prepared) ([]e2ee.Opened, error)
}

var _ Preparer = (*e2ee.Device)(nil)

// pendingMark is a mark with what is needed to apply it.
type pendingMark struct {
	mark
	encrypted bool // its room is encrypted
	event     int  // index in the batch, -1: none
	order     e2ee.Order
	bad       bool
}

// part is what is done at a time.
type part struct {
	works    []pendingMark
	batch    batch
	prepared *e2ee.Prepared // nil: nothing is decrypted yet
	by       Preparer       // that did it
	more     bool           // others follow
	err      error
}

func (p *part) reset() {
	clear(p.works)
	p.works, p.prepared, p.more, p.err = p.works[:0], nil, false, nil
	p.batch.reset()
}

// gatherer reads the plan of a body, and the events that must be read.
type gatherer struct {
	*Body
	device Device
	plan   *planReader
	past   histories
	// entries are the rooms of the entries that have marks and are still to come.
	entries []id.RoomID
	// The room of the marks that are being read.
	room      id.RoomID
	encrypted bool
	batch     func() batch // an empty one
}

func (w *writer) newGatherer() *gatherer {
	return &gatherer{
		Body: w.Body, device: w.out.Device, plan: newPlanReader(w.plan), past: w.shown, entries: w.marks, batch: w.newBatch,
	}
}

func (w *writer) newBatch() batch {
	return batch{
		graphs: &w.rewriter.graphs, redeliver: w.out.Redeliver, hold: w.out.Hold, page: w.out.Page,
		hideEncryption: !w.rewriter.options.ShowEncryption,
	}
}

// each calls do for each part, in order.
func (g *gatherer) each(ctx context.Context, do func(*part) error) error {
	p := &part{batch: g.batch()}
	for g.gather(p); ; g.gather(p) {
		if p.more && len(p.batch.incoming) > 0 {
			if ahead, ok := g.device.(Preparer); ok {
				return g.eachAhead(ctx, ahead, p, do)
			}
		}
		if p.err != nil {
			return p.err
		}
		if err := do(p); err != nil || !p.more {
			return err
		}
		p.reset()
	}
}

// eachAhead is [gatherer.each] from the part that was gathered on. While one part is done, the next
// is settled and the one after it prepared. It returns when nothing of it goes on.
func (g *gatherer) eachAhead(ctx context.Context, by Preparer, first *part, do func(*part) error) error {
	ctx, cancel := context.WithCancel(ctx)
	free := make(chan *part, partsAhead+1) // room for all: nobody waits when nobody takes one any more
	for range partsAhead {
		free <- &part{batch: g.batch()}
	}
	prepared, settled := make(chan *part), make(chan *part)
	var others parallel.Group
	others.Go(func() { g.prepare(ctx, by, first, free, prepared) })
	others.Go(func() {
		defer close(settled)
		for p := range prepared {
			if p.prepared != nil {
				by.Settle(ctx, p.prepared)
			}
			if !hand(ctx, settled, p) {
				return
			}
		}
	})
	defer func() {
		cancel()
		others.Wait()
	}()
	for p := range settled {
		if p.err != nil {
			return p.err
		}
		if err := do(p); err != nil {
			return err
		}
		if p.more {
			p.reset()
			free <- p
		}
	}
	return context.Cause(ctx) // of the caller, or none
}

// prepare gathers and prepares the parts from the first on, which is gathered.
func (g *gatherer) prepare(ctx context.Context, by Preparer, p *part, free <-chan *part, to chan<- *part) {
	defer close(to)
	for {
		if p.err == nil && len(p.batch.incoming) > 0 {
			p.by, p.prepared = by, by.Prepare(ctx, p.batch.incoming)
		}
		more := p.more && p.err == nil
		if !hand(ctx, to, p) || !more {
			return
		}
		select {
		case p = <-free:
			g.gather(p)
		case <-ctx.Done():
			return
		}
	}
}

// hand hands a part on, unless it is not wanted any more.
func hand(ctx context.Context, to chan<- *part, p *part) bool {
	select {
	case to <- p:
		return true
	case <-ctx.Done():
		return false
	}
}

// gather reads marks until a part is full.
func (g *gatherer) gather(p *part) {
	if p.more, p.err = g.readMarks(p); p.err == nil {
		p.err = g.read(p)
	}
}

// readMarks reads them, and reports whether there are more.
func (g *gatherer) readMarks(p *part) (more bool, err error) {
	events, size := 0, int64(0)
	for len(p.works) < maxBatchMarks && events < maxBatchEvents && size < maxBatchBytes {
		p.works = append(p.works, pendingMark{event: -1, encrypted: g.encrypted})
		next := &p.works[len(p.works)-1]
		m := &next.mark
		if err := g.plan.next(m); errors.Is(err, io.EOF) {
			p.works = p.works[:len(p.works)-1]
			return false, nil
		} else if err != nil {
			return false, err
		}
		switch m.kind {
		case markRoom, markEntry:
			if m.kind == markEntry && len(g.entries) > 0 {
				m.room, g.entries = g.entries[0], g.entries[1:]
			}
			g.room, g.encrypted = m.room, m.room != "" && g.device.KnownEncrypted(m.room)
		case markEvent:
			if m.has(flagPlain) {
				next.order = g.past.order(Position(m.flags>>positionShift), m.start)
			}
			if next.wanted() {
				events++
				size += m.end - m.start
			}
		case markFront, markBack, markDropEvent, markDropMember, markEnd:
		}
		next.room = g.room
	}
	return true, nil
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
func (g *gatherer) read(p *part) error {
	for i := 0; i < len(p.works); {
		if !p.works[i].wanted() {
			i++
			continue
		}
		from, to, last := p.works[i].start, p.works[i].end, i
		for j := i + 1; j < len(p.works); j++ {
			k := &p.works[j]
			if !k.wanted() {
				continue
			}
			if k.start-to > maxGap {
				break
			}
			to, last = k.end, j
		}
		piece := make([]byte, to-from)
		if _, err := g.kept.ReadAt(piece, from); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for ; i <= last; i++ {
			if k := &p.works[i]; k.wanted() {
				g.take(p, k, piece[k.start-from:k.end-from:k.end-from])
			}
		}
	}
	return nil
}

// take adds an event to the batch. One that cannot be cleaned is removed, and the rest of
// the answer is delivered.
func (g *gatherer) take(p *part, k *pendingMark, raw []byte) {
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
		if raw, err = g.rewriter.graphs.clean(raw, p.batch.hideEncryption); err != nil {
			k.bad = true
			return
		}
		if h, err = g.rewriter.graphs.headOf(raw); err != nil {
			k.bad = true
			return
		}
		h.neverOpened = shut // only events of a timeline are opened
		depth = maxBundled
	}
	k.event = p.batch.add(k.room, k.encrypted, raw, &h, k.order, depth)
}
