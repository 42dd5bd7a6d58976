package e2ee

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
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

// An account with many rooms, and with no client that syncs, is asked to verify somebody: the own
// syncs have no messages, so after one of them there is another request, which has those of rooms
// for few people, without waiting. It begins where the own sync before began, which is
// acknowledged already, and nothing but messages is taken from it. Rooms that are called direct
// come first; with more than listenRooms of them, the requests take turns.

const (
	// listenRooms is how many rooms one request asks for, listenTurns how many requests take turns.
	listenRooms, listenTurns = 64, 8
	// listenEvery is how much time is between two requests at least.
	listenEvery = 15 * time.Second
	// fewMembers is how many people the rooms have at most, where that is known. A room with more
	// messages than loudRoom between two requests is left out until the rooms are looked at again.
	fewMembers, loudRoom = 20, 20
)

// listening is what the requests ask for. The turn of the device's own syncs guards it.
type listening struct {
	turns     []listenTurn
	next      int
	at, found time.Time // when the last request was made, and the rooms were looked for
}

type listenTurn struct {
	rooms []id.RoomID
	since string // where its last own sync began
	at    time.Time
}

// listen asks for messages of small rooms, after an own sync that began at a position.
func (d *Device) listen(ctx context.Context, since string) error {
	if d.listening == nil {
		d.listening = &listening{}
	}
	l, now := d.listening, d.core.Env.Now()
	if now.Sub(l.at) < listenEvery {
		return nil
	}
	l.at = now
	if now.Sub(l.found) >= countedFor {
		rooms, err := d.smallRooms(ctx)
		if err != nil {
			return err
		}
		l.turns, l.next, l.found = nil, 0, now
		for some := range slices.Chunk(rooms[:min(len(rooms), listenTurns*listenRooms)], listenRooms) {
			l.turns = append(l.turns, listenTurn{rooms: some})
		}
	}
	if len(l.turns) == 0 {
		return nil
	}
	turn := &l.turns[l.next%len(l.turns)]
	l.next++
	if len(turn.rooms) == 0 {
		return nil
	}
	from := turn.since
	if from == "" || now.Sub(turn.at) > freshVerifying {
		from = since
	}
	var resp ownSync
	err := d.core.Call(ctx, wire.Request{
		Op: "listen for verifications", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "sync"},
		Query: map[string]string{"filter": listenFilter(turn.rooms), "set_presence": "offline", "timeout": "0", "since": from}, Result: &resp, Large: true,
	})
	if err != nil {
		return err
	}
	turn.since, turn.at = since, now
	turn.rooms = slices.DeleteFunc(turn.rooms, func(room id.RoomID) bool { return resp.Rooms.Join[room].Timeline.Limited })
	d.hearOwn(ctx, resp.Rooms.Join)
	return nil
}

// listenFilter is a filter for the messages of some rooms alone.
func listenFilter(rooms []id.RoomID) string {
	names, err := json.Marshal(rooms)
	if err != nil { // a list of strings always marshals
		names = []byte("[]")
	}
	none := `{"types":[]}`
	return fmt.Sprintf(`{"presence":%s,"account_data":%s,"room":{"rooms":%s,"ephemeral":%s,"account_data":%s,"state":%s,"timeline":{"types":[%s],"limit":%d}}}`,
		none, none, names, none, none, none, verificationTypes, loudRoom)
}

// smallRooms returns the rooms in which others may ask to verify, the likeliest first: those that
// the user's clients call direct, then encrypted ones that have few members or of which that is
// not known.
func (d *Device) smallRooms(ctx context.Context) ([]id.RoomID, error) {
	all, err := d.core.Env.Store.Rooms(ctx, d.acct.Row, d.core.RowID, nil)
	if err != nil {
		return nil, fmt.Errorf("look for small rooms: %w", err)
	}
	direct, err := d.directRooms(ctx)
	if err != nil {
		return nil, err
	}
	type candidate struct {
		room    id.RoomID
		members int
	}
	var rest []candidate
	for room := range all {
		members := d.rooms.KnownMembers(room)
		if _, is := slices.BinarySearch(direct, room); is || members > fewMembers || all[room].Algorithm == "" {
			continue
		}
		if members == 0 {
			members = fewMembers + 1 // behind those that are known to be small
		}
		rest = append(rest, candidate{room, members})
	}
	slices.SortFunc(rest, func(a, b candidate) int {
		return cmp.Or(a.members-b.members, strings.Compare(string(a.room), string(b.room)))
	})
	for _, c := range rest {
		direct = append(direct, c.room)
	}
	return direct, nil
}

// directRooms returns the rooms that the user's clients call direct, each once and in order.
func (d *Device) directRooms(ctx context.Context) ([]id.RoomID, error) {
	byUser, err := d.directByUser(ctx)
	if err != nil {
		return nil, err
	}
	var out []id.RoomID
	for _, rooms := range byUser {
		out = append(out, rooms...)
	}
	out = slices.DeleteFunc(out, func(room id.RoomID) bool { return len(room) > wire.MaxIDLength })
	slices.Sort(out)
	return slices.Compact(out), nil
}
