package channel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"maunium.net/go/mautrix"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// outbox is what is known of a device's outbox without reading it. The device's lock guards it.
type outbox struct {
	// pending reports whether it may hold anything, and fills counts how often something was put
	// into it.
	pending bool
	fills   int
	// queued is all that it holds; nil if that is not known.
	queued *Queued
	// delivered are the requests that the homeserver has accepted, and that are still stored.
	delivered []string
}

// Queued are requests that are made ready to be sent while they are stored. Nothing of them
// leaves before it is.
type Queued struct {
	items  []store.OutboxItem
	bodies []body // of the first items; those of the others are made when they are sent
	make   func(i int) json.RawMessage
	next   atomic.Int64 // the first of which nobody has begun to make the body
	all    sync.WaitGroup
}

type body struct {
	done chan struct{} // closed once it is made
	raw  json.RawMessage
}

// queue begins to make the bodies of requests. One processor is left to what stores them meanwhile.
func queue(parcels []olm.Parcel) *Queued {
	q := &Queued{
		items: make([]store.OutboxItem, len(parcels)), bodies: make([]body, len(parcels)),
		make: func(i int) json.RawMessage { return parcels[i].Body() },
	}
	for i := range q.bodies {
		q.bodies[i].done = make(chan struct{})
	}
	for range min(max(runtime.GOMAXPROCS(0)-1, 1), len(parcels)) {
		q.all.Go(func() {
			for q.makeNext() {
			}
		})
	}
	for i := range parcels {
		q.items[i] = parcels[i].Item()
	}
	return q
}

// Add adds requests that are sent after the others.
func (q *Queued) Add(items []store.OutboxItem) { q.items = append(q.items, items...) }

// Items returns what is to be stored.
func (q *Queued) Items() []store.OutboxItem { return q.items }

// Wait waits until nothing is made any more.
func (q *Queued) Wait() { q.all.Wait() }

// makeNext makes the next body, and reports false if all are made or being made.
func (q *Queued) makeNext() bool {
	i := int(q.next.Add(1)) - 1
	if i >= len(q.bodies) {
		return false
	}
	q.bodies[i].raw = q.make(i)
	close(q.bodies[i].done)
	return true
}

// take returns the body of a request, which the queue keeps no longer. While it is being made,
// those after it are made here.
func (q *Queued) take(i int) (json.RawMessage, error) {
	if i >= len(q.bodies) {
		return bodyOf(&q.items[i])
	}
	b := &q.bodies[i]
	for {
		select {
		case <-b.done:
			raw := b.raw
			b.raw = nil
			return raw, nil
		default:
		}
		if !q.makeNext() {
			<-b.done
		}
	}
}

func bodyOf(item *store.OutboxItem) (json.RawMessage, error) {
	if len(item.Recipe) == 0 {
		return item.Body, nil
	}
	return olm.RecipeBody(item.Recipe)
}

// OutboxFilled records that the outbox is not empty. The caller holds mu.
func (o *Olm) OutboxFilled() {
	o.outbox.pending, o.outbox.queued = true, nil
	o.outbox.fills++
}

// OutboxQueued records that the outbox was filled with these requests, all that this step has
// put into it. The caller holds mu.
func (o *Olm) OutboxQueued(q *Queued) {
	known := !o.outbox.pending
	o.OutboxFilled()
	if known {
		o.outbox.queued = q
	}
}

// Delivered stages that what the homeserver has accepted is removed from the outbox. The caller
// holds mu.
func (o *Olm) Delivered(s *core.Step) {
	n := len(o.outbox.delivered)
	s.Changes.DeleteOutbox = append(s.Changes.DeleteOutbox, o.outbox.delivered...)
	s.After(func() { o.outbox.delivered = o.outbox.delivered[n:] })
}

// IsSettled reports whether nothing that was delivered is still stored. The caller holds mu.
func (o *Olm) IsSettled() bool { return len(o.outbox.delivered) == 0 }

// errWaits means that something in the outbox waits until it is known who may have it.
var errWaits = errors.New("something in the outbox waits")

// FlushOutbox sends the messages in the outbox, in order. A request that the homeserver
// will never accept is dropped: it would block all others for ever. So is one whose recipient has lost
// the right to what it gives. One of which that cannot be told now waits, which is an error, and the
// others overtake it.
func (o *Olm) FlushOutbox(ctx context.Context) error { return o.flush(ctx, false) }

// FlushBefore is FlushOutbox, but leaves it to the next step that calls Delivered to remove what
// was sent. If that does not come about, it is sent again, in the same transaction. What waits holds
// nobody up.
func (o *Olm) FlushBefore(ctx context.Context) error { return o.flush(ctx, true) }

func (o *Olm) flush(ctx context.Context, leave bool) error {
	o.Mu.Lock()
	idle := !o.outbox.pending && (leave || len(o.outbox.delivered) == 0)
	o.Mu.Unlock()
	if idle || o.Mode != core.ModeProxied {
		return nil
	}
	give, err := o.outboxTurn.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	queued, fills, err := o.waiting(ctx)
	if err != nil {
		return err
	}
	waits, failed := o.sendAll(ctx, queued)
	if err := o.settle(ctx, leave); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	o.Mu.Lock()
	defer o.Mu.Unlock()
	o.outbox.pending = o.outbox.fills != fills || waits != nil
	if leave {
		return nil
	}
	return waits
}

// waiting returns what is to be sent, and the count of fills that it is as of.
func (o *Olm) waiting(ctx context.Context) (*Queued, int, error) {
	o.Mu.Lock()
	queued, fills, delivered := o.outbox.queued, o.outbox.fills, slices.Clone(o.outbox.delivered)
	pending := o.outbox.pending
	o.outbox.queued = nil
	o.Mu.Unlock()
	if queued != nil || !pending {
		return queued, fills, nil
	}
	items, err := o.Env.Store.Outbox(ctx, o.Account.Row, o.RowID)
	if err != nil {
		return nil, 0, fmt.Errorf("load outbox: %w", err)
	}
	items = slices.DeleteFunc(items, func(item store.OutboxItem) bool { return slices.Contains(delivered, item.TxnID) })
	return &Queued{items: items}, fills, nil
}

// sendAll sends requests until one fails. waits is why others were left out.
func (o *Olm) sendAll(ctx context.Context, queued *Queued) (waits, failed error) {
	if queued == nil {
		return nil, nil
	}
	for i := range queued.items {
		item := &queued.items[i]
		body, err := queued.take(i)
		if err != nil {
			return waits, err
		}
		may, err := o.stillMayGo(ctx, item)
		if ctx.Err() != nil {
			return waits, context.Cause(ctx)
		}
		if err != nil {
			waits = fmt.Errorf("%w: %v", errWaits, err) //nolint:errorlint // it is no more than a reason here
			continue
		}
		if may {
			err = o.sendToDevice(ctx, item, body)
		}
		if err != nil {
			return waits, err
		}
		o.Mu.Lock()
		o.outbox.delivered = append(o.outbox.delivered, item.TxnID)
		o.Mu.Unlock()
	}
	return waits, nil
}

// stillMayGo reports whether a request may be sent. Time has passed since it was made: seconds, or hours
// in which the homeserver took nothing. Room keys need no second look, because their session gets no
// other message once somebody may not have it.
func (o *Olm) stillMayGo(ctx context.Context, item *store.OutboxItem) (bool, error) {
	about, err := olm.AboutItem(item)
	if err != nil || about == nil {
		return err == nil, err
	}
	may, err := o.host.StillMayGet(ctx, about, item.CreatedAt)
	if err == nil && !may {
		o.Env.Log.Info().Stringer("account", o.Account.User).Str("kind", string(about.Kind)).Time("since", item.CreatedAt).
			Msg("Dropped what waited for a device that may not have it any more")
	}
	return may, err
}

// settle removes what was delivered from the outbox.
func (o *Olm) settle(ctx context.Context, leave bool) error {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	if leave || len(o.outbox.delivered) == 0 {
		return nil
	}
	s := o.Begin()
	o.Delivered(s)
	return s.Commit(ctx, "what was delivered")
}

// sendToDevice sends one item. Its transaction ID makes a retry harmless.
func (o *Olm) sendToDevice(ctx context.Context, item *store.OutboxItem, body json.RawMessage) error {
	err := o.Call(ctx, wire.Request{
		Op: "send to devices", Method: http.MethodPut,
		Path: mautrix.ClientURLPath{"v3", "sendToDevice", item.EventType, item.TxnID},
		Body: body,
	})
	var up *wire.UpstreamError
	if errors.As(err, &up) {
		switch up.Status {
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			o.Env.Log.Error().Err(err).Str("type", item.EventType).Msg("Dropped a to-device request that the homeserver refuses")
			return nil
		}
	}
	return err
}
