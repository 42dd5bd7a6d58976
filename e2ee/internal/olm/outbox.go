package olm

import (
	"crypto/rand"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// shareBatch is the maximum number of devices in one to-device request.
const shareBatch = 250

// Message is a to-device message for one device.
type Message struct {
	To      *trustcache.Device
	Content json.RawMessage
}

// OutboxItems packs messages into requests, at most shareBatch devices each and one
// message per device (requirement 5.1).
func OutboxItems(eventType string, messages []Message, now time.Time) []store.OutboxItem {
	var items []store.OutboxItem
	for start := 0; start < len(messages); start += shareBatch {
		chunk := messages[start:min(start+shareBatch, len(messages))]
		body := toDeviceBody(chunk)
		items = append(items, store.OutboxItem{TxnID: rand.Text(), EventType: eventType, Body: body, CreatedAt: now})
	}
	return items
}

// toDeviceBody returns the body of one request: {"messages": {user: {device: content}}}.
// The contents are long, and made by us: they are only copied.
func toDeviceBody(messages []Message) json.RawMessage {
	byUser := make(map[id.UserID]map[id.DeviceID]json.RawMessage)
	size := 16
	for _, m := range messages {
		if byUser[m.To.UserID] == nil {
			byUser[m.To.UserID] = make(map[id.DeviceID]json.RawMessage)
		}
		byUser[m.To.UserID][m.To.DeviceID] = m.Content
		size += len(m.Content) + len(m.To.UserID) + len(m.To.DeviceID) + 12
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
