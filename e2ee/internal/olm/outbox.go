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

// Parcel is the messages of one request to devices.
type Parcel struct {
	item     store.OutboxItem // without what is sent
	messages []Message        // in order
}

// Pack packs messages into requests, at most shareBatch devices each and one message per device
// (requirement 5.1).
func Pack(eventType string, messages []Message, now time.Time) []Parcel {
	var parcels []Parcel
	for start := 0; start < len(messages); start += shareBatch {
		parcels = append(parcels, Parcel{
			item:     store.OutboxItem{TxnID: txnMark + rand.Text(), EventType: eventType, CreatedAt: now},
			messages: inOrder(messages[start:min(start+shareBatch, len(messages))]),
		})
	}
	return parcels
}

// Item returns what is stored of the request. One with many messages has a recipe instead of its
// body.
func (p *Parcel) Item() store.OutboxItem {
	item := p.item
	if isRecipe(p.messages) {
		item.Recipe = encodeRecipe(p.messages)
	} else {
		item.Body = p.Body()
	}
	return item
}

// Body returns what is sent: the same bytes that [RecipeBody] makes of a recipe.
func (p *Parcel) Body() json.RawMessage { return toDeviceBody(p.messages) }

// OutboxItems returns what is stored of the requests that messages are packed into.
func OutboxItems(eventType string, messages []Message, now time.Time) []store.OutboxItem {
	parcels := Pack(eventType, messages, now)
	items := make([]store.OutboxItem, len(parcels))
	for i := range parcels {
		items[i] = parcels[i].Item()
	}
	return items
}

// AboutItems is OutboxItems for messages with something that the recipients may lose the right to while
// it waits. Each request is stored with what it is about, of which To is filled in.
func AboutItems(about About, messages []Message, now time.Time) []store.OutboxItem {
	parcels := Pack(typeEncrypted, messages, now)
	items := make([]store.OutboxItem, len(parcels))
	for i := range parcels {
		about.To = nil
		for _, m := range parcels[i].messages {
			about.To = append(about.To, Recipient{m.To.UserID, m.To.DeviceID, m.To.Curve25519, m.To.Ed25519})
		}
		items[i] = parcels[i].item
		items[i].Recipe = encodeAbout(&about, parcels[i].Body())
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
