package olm

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
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
	To *trustcache.Device
	// Content is its content; nil for one that [Sessions.SealAll] made, see [Message.Text].
	Content json.RawMessage

	letter *letter
	frame  *Frame
}

// Text returns the content.
func (m *Message) Text() json.RawMessage {
	if m.letter == nil {
		return m.Content
	}
	w := writer{frame: m.frame}
	return w.add(nil, m.To.UserID, m.letter)
}

// OutboxItems packs messages into requests, at most shareBatch devices each and one
// message per device (requirement 5.1). One with many messages has a recipe instead of its body.
func OutboxItems(eventType string, messages []Message, now time.Time) []store.OutboxItem {
	var items []store.OutboxItem
	for start := 0; start < len(messages); start += shareBatch {
		chunk := messages[start:min(start+shareBatch, len(messages))]
		item := store.OutboxItem{TxnID: rand.Text(), EventType: eventType, CreatedAt: now}
		if chunk = inOrder(chunk); isRecipe(chunk) {
			item.Recipe = encodeRecipe(chunk)
		} else {
			item.Body = toDeviceBody(chunk)
		}
		items = append(items, item)
	}
	return items
}

// inOrder returns messages by user and device, the last one for each.
func inOrder(messages []Message) []Message {
	sorted := slices.Clone(messages)
	slices.SortStableFunc(sorted, func(a, b Message) int {
		if c := strings.Compare(a.To.UserID.String(), b.To.UserID.String()); c != 0 {
			return c
		}
		return strings.Compare(a.To.DeviceID.String(), b.To.DeviceID.String())
	})
	kept := sorted[:0]
	for _, m := range sorted {
		if n := len(kept); n > 0 && kept[n-1].To.UserID == m.To.UserID && kept[n-1].To.DeviceID == m.To.DeviceID {
			kept[n-1] = m
			continue
		}
		kept = append(kept, m)
	}
	return kept
}

// toDeviceBody returns the body of one request: {"messages": {user: {device: content}}}.
// The contents are long, and made by us: they are only copied. The messages are in order.
func toDeviceBody(messages []Message) json.RawMessage {
	var w writer
	size := 16
	for i := range messages {
		m := &messages[i]
		size += len(m.Content) + len(m.To.UserID) + len(m.To.DeviceID) + 12
		if m.letter != nil {
			w.frame = m.frame
			size += w.size()
		}
	}
	body := append(make([]byte, 0, size), `{"messages":{`...)
	var user id.UserID
	for i := range messages {
		m := &messages[i]
		if i == 0 || user != m.To.UserID {
			if i > 0 {
				body = append(body, `},`...)
			}
			user = m.To.UserID
			body = append(strictjson.AppendQuote(body, user.String()), ":{"...)
		} else {
			body = append(body, ',')
		}
		body = append(strictjson.AppendQuote(body, m.To.DeviceID.String()), ':')
		if m.letter == nil {
			body = append(body, m.Content...)
			continue
		}
		w.frame = m.frame
		body = w.add(body, user, m.letter)
	}
	if len(messages) > 0 {
		body = append(body, '}')
	}
	return append(body, "}}"...)
}
