package e2ee

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/verification"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// Verifications in rooms are seen in the syncs of the client as they pass, and in the proxy's
// own. Those leave out messages: of a busy account they would be most of what there is. They
// have them while a verification in a room is under way, and if there are only a few rooms. With
// more, what listen does is enough to be asked.

const (
	// fewRooms is up to how many encrypted rooms the own syncs always have messages.
	fewRooms = 20
	// countedFor is how long the number of rooms holds.
	countedFor = time.Hour
	// freshVerifying is how old an event may be that is looked at: older ones are over.
	freshVerifying = 15 * time.Minute
)

// watching is whether the own syncs have messages, as long as it holds. The device's lock guards
// it.
type watching struct {
	fewRooms        bool
	countedUntil    time.Time
	withoutMessages bool // the own sync in flight, or the last one
}

// RoomEvent is an event of a room as the homeserver sent it.
type RoomEvent struct {
	RoomID id.RoomID
	Event  json.RawMessage
}

// MaybeVerification reports whether an event in clear may belong to a verification in its
// room, by its type and its text.
func MaybeVerification(eventType string, event []byte) bool {
	return verification.MaybeOfRoom(eventType, event)
}

// hear hands events of rooms, in clear, to the verifications.
func (d *Device) hear(events []RoomEvent) {
	var out []verification.Event
	for _, one := range events {
		if ev, ok := verification.OfRoom(one.RoomID, one.Event); ok {
			out = append(out, ev)
		}
	}
	if len(out) > 0 {
		d.flows.Receive(out)
	}
}

// hearOpened hands those events of a sync to the verifications that came encrypted.
func (d *Device) hearOpened(in []Incoming, out []Opened) {
	var found []RoomEvent
	for i := range out {
		if in[i].Redeliver && !in[i].Page && out[i].Decrypted && verification.MaybeOfRoom(out[i].Type, out[i].Event) {
			found = append(found, RoomEvent{in[i].RoomID, out[i].Event})
		}
	}
	d.hear(found)
}

// hearLate hands events to the verifications whose keys came later.
func (d *Device) hearLate(late map[id.RoomID][]json.RawMessage) {
	var found []RoomEvent
	for room, events := range late {
		for _, raw := range events {
			if event, err := strictjson.Parse(raw); err == nil && verification.MaybeOfRoom(event.TextOrEmpty("type"), raw) {
				found = append(found, RoomEvent{room, raw})
			}
		}
	}
	d.hear(found)
}

// watchesRooms reports whether the proxy's own syncs must have messages.
func (d *Device) watchesRooms(ctx context.Context) (bool, error) {
	if d.flows.InRooms() {
		return true, nil
	}
	now := d.core.Env.Now()
	d.core.Mu.Lock()
	few, holds := d.fewRooms, now.Before(d.countedUntil)
	d.core.Mu.Unlock()
	if holds {
		return few, nil
	}
	all, err := d.core.Env.Store.Rooms(ctx, d.acct.Row, d.core.RowID, nil)
	if err != nil {
		return false, fmt.Errorf("count rooms: %w", err)
	}
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	d.fewRooms, d.countedUntil = len(all) <= fewRooms, now.Add(countedFor)
	return d.fewRooms, nil
}

// hearOwn looks for verifications in the rooms of an own sync. Whoever wrote an encrypted
// event is not looked at: what verifies are the keys that are proved inside it.
func (d *Device) hearOwn(ctx context.Context, rooms map[id.RoomID]ownRoom) {
	oldest := d.core.Env.Now().Add(-freshVerifying).UnixMilli()
	var found []RoomEvent
	var sealed []*roomkeys.Event
	var outer []*ownEvent
	for room, r := range rooms {
		for i := range r.Timeline.Events {
			ev := &r.Timeline.Events[i]
			switch {
			case ev.StateKey != nil, ev.at() < oldest:
			case ev.Type == "m.room.encrypted":
				if one := ev.sealed(room); one != nil {
					sealed, outer = append(sealed, one), append(outer, ev)
				}
			case verification.MaybeOfRoom(ev.Type, ev.Content):
				found = append(found, RoomEvent{room, ev.encode(ev.Type, ev.Content)})
			}
		}
	}
	d.inbound.Decrypt(ctx, sealed)
	for i, one := range sealed {
		if one.Err != nil || !verification.MaybeOfRoom(one.Type, one.Payload.Get("content")) {
			continue
		}
		content, err := strictjson.Parse(one.Payload.Get("content"))
		if err != nil {
			continue
		}
		content = content.Without("m.relates_to") // the one in clear counts, also by its absence
		if clear, err := strictjson.Parse(outer[i].Content); err == nil && clear.Get("m.relates_to") != nil {
			content = append(content, strictjson.Member{Name: "m.relates_to", Value: clear.Get("m.relates_to")})
		}
		found = append(found, RoomEvent{one.Ref.RoomID, outer[i].encode(one.Type, content.Encode())})
	}
	d.hear(found)
}

// at returns when the event was sent, zero when it does not say so.
func (ev *ownEvent) at() int64 {
	at, err := strconv.ParseInt(string(ev.At), 10, 64)
	if err != nil {
		return 0
	}
	return at
}

// sealed returns an encrypted event as one to be decrypted; nil when it is malformed.
func (ev *ownEvent) sealed(room id.RoomID) *roomkeys.Event {
	content, err := strictjson.Parse(ev.Content)
	if err != nil || content.TextOrEmpty("algorithm") != wire.AlgorithmMegolm {
		return nil
	}
	session, cipher := content.TextOrEmpty("session_id"), content.TextOrEmpty("ciphertext")
	eventID := strictjson.Object{{Name: "event_id", Value: ev.ID}}.TextOrEmpty("event_id")
	if session == "" || cipher == "" || len(session) > wire.MaxIDLength || eventID == "" || len(eventID) > wire.MaxIDLength || len(ev.Sender) > wire.MaxIDLength {
		return nil
	}
	return &roomkeys.Event{
		ID: id.EventID(eventID), Sender: ev.Sender, Timestamp: ev.at(), Ciphertext: cipher,
		Ref: store.SessionRef{RoomID: room, SessionID: id.SessionID(session)},
	}
}

// encode writes the event again, with a type and content in clear.
func (ev *ownEvent) encode(eventType string, content json.RawMessage) json.RawMessage {
	return strictjson.Object{
		{Name: "type", Value: strictjson.Quote(eventType)}, {Name: "sender", Value: strictjson.Quote(ev.Sender.String())},
		{Name: "event_id", Value: ev.ID}, {Name: "origin_server_ts", Value: ev.At},
		{Name: "content", Value: content},
	}.Encode()
}

// SendInRoom implements verification.Host.
func (h host) SendInRoom(ctx context.Context, m verification.Message, room id.RoomID) (id.EventID, error) {
	how, err := h.Device.RoomEncryption(ctx, room)
	if err != nil {
		return "", err
	}
	out := Outgoing{RoomID: room, Type: m.Type, TxnID: "verification-" + rand.Text(), Content: m.Content}
	eventType, content, txn := m.Type, m.Content, out.TxnID
	switch how {
	case RoomPlain:
	case RoomEncrypted:
		sealed, err := h.Device.Encrypt(ctx, out)
		if err != nil {
			return "", err
		}
		eventType, content, txn = "m.room.encrypted", sealed.Content, sealed.TxnID
	case RoomUnknown, RoomUnsupported:
		return "", core.ErrCannotEncrypt
	}
	var sent struct {
		EventID id.EventID `json:"event_id"`
	}
	err = h.core.Call(ctx, wire.Request{
		Op: "send a message of a verification", Method: http.MethodPut,
		Path: mautrix.ClientURLPath{"v3", "rooms", room, "send", eventType, txn}, Body: content, Result: &sent,
	})
	if err != nil {
		return "", err
	}
	if how == RoomEncrypted {
		h.Device.Sent(out, txn, sent.EventID)
	}
	return sent.EventID, nil
}
