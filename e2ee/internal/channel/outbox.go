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
	bodies []func() (json.RawMessage, error)
	all    sync.WaitGroup
}

// Queue begins to make the bodies of requests. [Queued.Wait] must be called.
func Queue(items []store.OutboxItem) *Queued {
	q := &Queued{items: items, bodies: make([]func() (json.RawMessage, error), len(items))}
	for i := range items {
		q.bodies[i] = sync.OnceValues(func() (json.RawMessage, error) { return bodyOf(&items[i]) })
	}
	var next atomic.Int64
	for range min(runtime.GOMAXPROCS(0), len(items)) {
		q.all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(items)); i = next.Add(1) - 1 {
				_, _ = q.bodies[i]() // whoever sends it gets the error
			}
		})
	}
	return q
}

// Wait waits until nothing is made any more.
func (q *Queued) Wait() { q.all.Wait() }

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

// FlushOutbox sends the messages in the outbox, in order. A request that the homeserver
// will never accept is dropped: it would block all others for ever.
func (o *Olm) FlushOutbox(ctx context.Context) error { return o.flush(ctx, false) }

// FlushBefore is FlushOutbox, but leaves it to the next step that calls Delivered to remove what
// was sent. If that does not come about, it is sent again, in the same transaction.
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
	queue, fills, err := o.waiting(ctx)
	if err != nil {
		return err
	}
	failed := o.sendAll(ctx, queue)
	if err := o.settle(ctx, leave); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	o.Mu.Lock()
	defer o.Mu.Unlock()
	o.outbox.pending = o.outbox.fills != fills
	return nil
}

// waiting returns what is to be sent, and the count of fills that it is as of.
func (o *Olm) waiting(ctx context.Context) (*Queued, int, error) {
	o.Mu.Lock()
	queue, fills, delivered := o.outbox.queued, o.outbox.fills, slices.Clone(o.outbox.delivered)
	pending := o.outbox.pending
	o.outbox.queued = nil
	o.Mu.Unlock()
	if queue != nil || !pending {
		return queue, fills, nil
	}
	items, err := o.Env.Store.Outbox(ctx, o.Account.Row, o.RowID)
	if err != nil {
		return nil, 0, fmt.Errorf("load outbox: %w", err)
	}
	items = slices.DeleteFunc(items, func(item store.OutboxItem) bool { return slices.Contains(delivered, item.TxnID) })
	queue = &Queued{items: items, bodies: make([]func() (json.RawMessage, error), len(items))}
	for i := range items {
		queue.bodies[i] = func() (json.RawMessage, error) { return bodyOf(&items[i]) }
	}
	return queue, fills, nil
}

// sendAll sends requests until one fails.
func (o *Olm) sendAll(ctx context.Context, queue *Queued) error {
	if queue == nil {
		return nil
	}
	for i := range queue.items {
		body, err := queue.bodies[i]()
		if err == nil {
			err = o.sendToDevice(ctx, &queue.items[i], body)
		}
		if err != nil {
			return err
		}
		o.Mu.Lock()
		o.outbox.delivered = append(o.outbox.delivered, queue.items[i].TxnID)
		o.Mu.Unlock()
	}
	return nil
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
