package e2ee

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// outboxItems packs messages into requests, at most shareBatch devices each and one
// message per device (requirement 5.1).
func outboxItems(eventType string, messages []message, now time.Time) []store.OutboxItem {
	var items []store.OutboxItem
	for start := 0; start < len(messages); start += shareBatch {
		chunk := messages[start:min(start+shareBatch, len(messages))]
		body := toDeviceBody(chunk)
		items = append(items, store.OutboxItem{TxnID: rand.Text(), EventType: eventType, Body: body, CreatedAt: now})
	}
	return items
}

// toDeviceBody is the body of one request: {"messages": {user: {device: content}}}. The
// contents are long, and made by us: they are only copied.
func toDeviceBody(messages []message) json.RawMessage {
	byUser := make(map[id.UserID]map[id.DeviceID]json.RawMessage)
	size := 16
	for _, m := range messages {
		if byUser[m.to.UserID] == nil {
			byUser[m.to.UserID] = make(map[id.DeviceID]json.RawMessage)
		}
		byUser[m.to.UserID][m.to.DeviceID] = m.content
		size += len(m.content) + len(m.to.UserID) + len(m.to.DeviceID) + 12
	}
	body := append(make([]byte, 0, size), `{"messages":{`...)
	for i, user := range slices.Sorted(maps.Keys(byUser)) {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(strictjson.AppendQuote(body, user.String()), ":{"...)
		for i, device := range slices.Sorted(maps.Keys(byUser[user])) {
			if i > 0 {
				body = append(body, ',')
			}
			body = append(strictjson.AppendQuote(body, device.String()), ':')
			body = append(body, byUser[user][device]...)
		}
		body = append(body, '}')
	}
	return append(body, "}}"...)
}

// flushOutbox sends what waits in the outbox, in order. A request that the homeserver
// will never take is dropped: it would block all others for ever.
func (o *olmState) flushOutbox(ctx context.Context) error {
	o.mu.Lock()
	pending := o.outboxPending
	o.mu.Unlock()
	if !pending || o.mode != ModeProxied {
		return nil
	}
	give, err := o.outboxTurn.Take(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer give()
	items, err := o.eng.store.Outbox(ctx, o.acct.row, o.rowID)
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
		if err := o.save(ctx, &store.Changes{DeleteOutbox: done}); err != nil {
			return fmt.Errorf("store what was delivered: %w", err)
		}
	}
	if failed != nil {
		return failed
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	left, err := o.eng.store.Outbox(ctx, o.acct.row, o.rowID)
	if err != nil {
		return fmt.Errorf("load outbox: %w", err)
	}
	o.outboxPending = len(left) > 0
	return nil
}

// sendToDevice delivers one item. The transaction ID makes repeating it harmless.
func (o *olmState) sendToDevice(ctx context.Context, item store.OutboxItem) error {
	err := o.call(ctx, wire.Request{
		Op: "send to devices", Method: http.MethodPut,
		Path: mautrix.ClientURLPath{"v3", "sendToDevice", item.EventType, item.TxnID},
		Body: item.Body,
	})
	var up *wire.UpstreamError
	if errors.As(err, &up) {
		switch up.Status {
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
			o.eng.log.Error().Err(err).Str("type", item.EventType).Msg("Dropped a to-device request that the homeserver refuses")
			return nil
		}
	}
	return err
}
