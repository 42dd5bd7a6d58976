package verification

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
)

// Prefix begins the types of verification events.
const Prefix = "m.key.verification."

// The events of the framework, without Prefix.
const (
	typeRequest = "request"
	typeReady   = "ready"
	typeStart   = "start"
	typeAccept  = "accept"
	typeKey     = "key"
	typeMac     = "mac"
	typeDone    = "done"
	typeCancel  = "cancel"
)

// Methods.
const (
	methodSAS         = "m.sas.v1"
	methodShow        = "m.qr_code.show.v1"
	methodScan        = "m.qr_code.scan.v1"
	methodReciprocate = "m.reciprocate.v1"
)

// Event is a verification event as it came.
type Event struct {
	kind    string // its type without Prefix
	sender  id.UserID
	room    id.RoomID
	id      id.EventID // of an event in a room
	txn     string
	at      time.Time // when it was sent, as its sender or the homeserver says
	raw     json.RawMessage
	content strictjson.Object
}

// maxTxn bounds transaction IDs, as the sender chooses them.
const maxTxn = wire.MaxIDLength

// OfDevice reads a to-device event; false when it is malformed.
func OfDevice(eventType string, sender id.UserID, content json.RawMessage) (Event, bool) {
	ev := Event{kind: strings.TrimPrefix(eventType, Prefix), sender: sender, raw: content}
	var err error
	if ev.content, err = strictjson.Parse(content); err != nil {
		return Event{}, false
	}
	ev.txn, _ = ev.content.Text("transaction_id")
	if ms, err := strconv.ParseInt(string(ev.content.Get("timestamp")), 10, 64); err == nil {
		ev.at = time.UnixMilli(ms)
	}
	return ev, ev.txn != "" && len(ev.txn) <= maxTxn && ev.plausible()
}

// OfRoom reads an event of a room in clear; false when it is not about a verification, or is
// malformed. An m.room.message may be a request.
func OfRoom(room id.RoomID, event json.RawMessage) (Event, bool) {
	obj, err := strictjson.Parse(event)
	if err != nil || obj.Get("state_key") != nil {
		return Event{}, false
	}
	ev := Event{room: room, raw: obj.Get("content")}
	if ev.content, err = strictjson.Parse(ev.raw); err != nil {
		return Event{}, false
	}
	eventType, _ := obj.Text("type")
	kind, is := strings.CutPrefix(eventType, Prefix)
	sender, eventID := obj.TextOrEmpty("sender"), obj.TextOrEmpty("event_id")
	switch {
	case is && kind != typeRequest:
		ev.kind = kind
		relation := ev.content.Object("m.relates_to")
		if relation.TextOrEmpty("rel_type") == "m.reference" { // requirement 13.10
			ev.txn = relation.TextOrEmpty("event_id")
		}
	case eventType == "m.room.message" && ev.content.TextOrEmpty("msgtype") == Prefix+typeRequest &&
		ev.content.Object("m.relates_to").TextOrEmpty("rel_type") != "m.replace": // an edit asks for nothing
		ev.kind, ev.txn = typeRequest, eventID
	default:
		return Event{}, false
	}
	if ms, err := strconv.ParseInt(string(obj.Get("origin_server_ts")), 10, 64); err == nil {
		ev.at = time.UnixMilli(ms)
	}
	ev.sender, ev.id = id.UserID(sender), id.EventID(eventID)
	return ev, ev.id != "" && ev.txn != "" && len(ev.txn) <= maxTxn && len(ev.id) <= maxTxn && ev.plausible()
}

// MaybeOfRoom reports whether an event in clear may be one that OfRoom reads, without reading
// it.
func MaybeOfRoom(eventType string, content []byte) bool {
	return strings.HasPrefix(eventType, Prefix) ||
		eventType == "m.room.message" && bytes.Contains(content, []byte(Prefix+typeRequest))
}

func (ev *Event) plausible() bool {
	const most = 16 << 10
	return ev.sender != "" && len(ev.sender) <= wire.MaxIDLength && len(ev.raw) <= most
}

// digest is the same for an event that comes twice.
func (ev *Event) digest() [32]byte {
	if ev.id != "" {
		return sha256.Sum256([]byte(ev.id))
	}
	return sha256.Sum256(append([]byte(ev.kind+"\x00"), ev.raw...))
}

// fromDevice returns the device that an event says it is from; empty when it says none.
func (ev *Event) fromDevice() id.DeviceID {
	device := ev.content.TextOrEmpty("from_device")
	if len(device) > wire.MaxIDLength {
		return ""
	}
	return id.DeviceID(device)
}

// Message is a verification event to be sent.
type Message struct {
	// Type is the full type; in a room that of an m.room.message for a request.
	Type    string
	Content json.RawMessage
	// Devices are those of the flow's user that get it, unless the flow is in a room.
	Devices []id.DeviceID
}

// message makes a message of the flow, for some devices.
func (f *Flow) message(kind string, to []id.DeviceID, members ...strictjson.Member) Message {
	return Message{Type: Prefix + kind, Content: f.content(members...), Devices: to}
}

// content adds to members what names the flow.
func (f *Flow) content(members ...strictjson.Member) json.RawMessage {
	out := append(strictjson.Object(nil), members...)
	if f.room != "" {
		return append(out, strictjson.Member{Name: "m.relates_to", Value: strictjson.Object{
			text("rel_type", "m.reference"), text("event_id", f.txn),
		}.Encode()}).Encode()
	}
	return append(out, text("transaction_id", f.txn)).Encode()
}

// say makes a message for the other side's device.
func (f *Flow) say(kind string, members ...strictjson.Member) Message {
	return f.message(kind, []id.DeviceID{f.device}, members...)
}

func text(name, value string) strictjson.Member {
	return strictjson.Member{Name: name, Value: strictjson.Quote(value)}
}

func list(name string, values ...string) strictjson.Member {
	raw := []byte{'['}
	for i, v := range values {
		if i > 0 {
			raw = append(raw, ',')
		}
		raw = strictjson.AppendQuote(raw, v)
	}
	return strictjson.Member{Name: name, Value: append(raw, ']')}
}
