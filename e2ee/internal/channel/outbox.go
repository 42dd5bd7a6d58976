package channel

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"maunium.net/go/mautrix"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// FlushOutbox sends the messages in the outbox, in order. A request that the homeserver
// will never accept is dropped: it would block all others for ever.
func (o *Olm) FlushOutbox(ctx context.Context) error {
	o.Mu.Lock()
	pending := o.outboxPending
	o.Mu.Unlock()
	if !pending || o.Mode != core.ModeProxied {
		return nil
	}
	give, err := o.outboxTurn.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	items, err := o.Env.Store.Outbox(ctx, o.Account.Row, o.RowID)
	if err != nil {
		return fmt.Errorf("load outbox: %w", err)
	}
	var done []string
	var failed error
	for _, item := range items {
		if failed = o.sendToDevice(ctx, item); failed != nil {
			break
		}
		done = append(done, item.TxnID)
	}
	if len(done) > 0 {
		if err := o.Save(ctx, &store.Changes{DeleteOutbox: done}); err != nil {
			return fmt.Errorf("store what was delivered: %w", err)
		}
	}
	if failed != nil {
		return failed
	}
	o.Mu.Lock()
	defer o.Mu.Unlock()
	left, err := o.Env.Store.Outbox(ctx, o.Account.Row, o.RowID)
	if err != nil {
		return fmt.Errorf("load outbox: %w", err)
	}
	o.outboxPending = len(left) > 0
	return nil
}

// sendToDevice sends one item. Its transaction ID makes a retry harmless.
func (o *Olm) sendToDevice(ctx context.Context, item store.OutboxItem) error {
	err := o.Call(ctx, wire.Request{
		Op: "send to devices", Method: http.MethodPut,
		Path: mautrix.ClientURLPath{"v3", "sendToDevice", item.EventType, item.TxnID},
		Body: item.Body,
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
