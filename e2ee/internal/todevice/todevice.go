package todevice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/channel"
	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/devicekeys"
	"e2ee-proxy/e2ee/internal/gossip"
	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/roomkeys"
	"e2ee-proxy/e2ee/internal/sharedhistory"
	"e2ee-proxy/e2ee/internal/verification"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// toDevice is a to-device event of a sync.
type toDevice struct {
	Type    string          `json:"type"`
	Sender  id.UserID       `json:"sender"`
	Content json.RawMessage `json:"content"`
	// Decrypted tells the client that the event came over Olm. It is never read from the
	// network.
	Decrypted bool `json:"decrypted,omitempty"`
}

// Receiver takes in the to-device events of a device.
type Receiver struct {
	dev     *core.Device
	channel *channel.Olm
	gossip  *gossip.Exchange
	inbound *roomkeys.Inbound
	keys    *devicekeys.Publication
	history *sharedhistory.History
}

// New returns the receiver of a device.
func New(dev *core.Device, olm *channel.Olm, ask *gossip.Exchange, inbound *roomkeys.Inbound, keys *devicekeys.Publication, history *sharedhistory.History) Receiver {
	return Receiver{dev, olm, ask, inbound, keys, history}
}

// Incoming processes the to-device events of one sync response. All its changes are in
// the step, which is stored as a whole or not at all.
type Incoming struct {
	from      *Receiver
	step      *core.Step
	ch        *store.Changes // of the step
	sessions  *olm.Sessions
	seen      map[[32]byte]bool
	keys      []megolm.Arrived
	Wedged    []channel.Wedged
	other     []*olm.Received   // for the client, if the sender's device is confirmed
	ForClient []json.RawMessage // for the client
	Verifying []verification.Event
	Moved     bool // a wire.TypeMoved of the user's came
	Withheld  bool // somebody said that a room key does not come
	gossip    *gossip.Incoming
	history   *sharedhistory.Incoming
}

// Process handles the events in order of arrival (requirement 5.3). An event that
// cannot be read is counted and never fatal, not even if it makes the program panic: anybody can send anything. The caller holds
// mu.
func (r *Receiver) Process(ctx context.Context, events []json.RawMessage, s *core.Step) (*Incoming, error) {
	ch := s.Changes
	b := &Incoming{from: r, step: s, ch: ch, seen: make(map[[32]byte]bool), gossip: r.gossip.Receive(), history: r.history.Receive()}
	parsed := make([]*toDevice, 0, len(events))
	olms := make([]*olm.Event, 0, len(events))
	var senders []id.Curve25519
	var digests [][32]byte
	for _, raw := range events {
		ev, sealed := parseToDevice(raw)
		if ev == nil {
			continue
		}
		parsed, olms = append(parsed, ev), append(olms, sealed)
		if sealed != nil {
			senders = append(senders, sealed.SenderKey)
			digests = append(digests, sealed.Digest(r.dev.Curve25519))
		}
	}
	var err error
	if b.sessions, err = r.channel.LoadSessions(ctx, senders); err != nil {
		return nil, err
	}
	if len(digests) > 0 {
		if b.seen, err = r.dev.Env.Store.Seen(ctx, r.dev.Account.Row, r.dev.RowID, digests); err != nil {
			return nil, fmt.Errorf("load seen messages: %w", err)
		}
	}
	if len(parsed) > 0 {
		if err := r.gossip.ReadRequests(ctx); err != nil {
			return nil, err
		}
	}
	for i, ev := range parsed {
		_ = r.dev.Env.Survive(func() error { b.handle(ev, olms[i]); return nil }) // logged; the next are not to wait for it
	}
	if err := r.channel.StageSessions(ctx, s, b.sessions); err != nil {
		return nil, err
	}
	if err := r.channel.StageWedged(ctx, b.Wedged, s); err != nil {
		return nil, err
	}
	if err := b.keepRoomKeys(ctx); err != nil {
		return nil, err
	}
	if err := b.gossip.Stage(ctx, s, b.keepRoomKey); err != nil {
		return nil, err
	}
	if err := b.history.Stage(ctx, s); err != nil {
		return nil, err
	}
	return b, b.passOthers(ctx)
}

// Begun returns the keys of devices that began Olm sessions with us.
func (b *Incoming) Begun() []id.Curve25519 { return b.sessions.Begun }

// parseToDevice parses an event strictly; nil when it is malformed.
func parseToDevice(raw json.RawMessage) (*toDevice, *olm.Event) {
	var ev toDevice
	if err := strictjson.Unmarshal(raw, &ev); err != nil || ev.Type == "" || ev.Sender == "" || len(ev.Sender) > wire.MaxIDLength {
		return nil, nil
	}
	if ev.Type != "m.room.encrypted" {
		return &ev, nil
	}
	sealed, err := olm.ParseEvent(ev.Content)
	if err != nil {
		return nil, nil
	}
	return &ev, sealed
}

// handle handles a single event.
func (b *Incoming) handle(ev *toDevice, sealed *olm.Event) {
	if sealed != nil {
		b.handleOlm(ev, sealed)
		return
	}
	if sharedhistory.IsBundle(ev.Type) {
		return // as those below
	}
	switch ev.Type {
	case "m.room_key", "m.forwarded_room_key", "m.secret.send", gossip.TypePush, "m.dummy":
		// Valid only over Olm (requirement 8.2, attack A11).
	case wire.TypeMoved:
		b.Moved = b.Moved || ev.Sender == b.from.dev.Account.User
	case "m.room_key.withheld":
		b.handleWithheld(ev)
	case "m.secret.request":
		b.gossip.SecretRequest(ev.Sender, ev.Content)
	case "m.room_key_request":
		b.gossip.KeyRequest(ev.Sender, ev.Content)
	default:
		if strings.HasPrefix(ev.Type, verification.Prefix) && b.from.keys.Allowed() {
			b.verify(ev.Type, ev.Sender, ev.Content)
			return
		}
		b.passToClient(toDevice{Type: ev.Type, Sender: ev.Sender, Content: ev.Content})
	}
}

// verify takes a verification event. It is about the proxy's keys, so that the client has no
// use for it.
func (b *Incoming) verify(eventType string, sender id.UserID, content json.RawMessage) {
	if ev, ok := verification.OfDevice(eventType, sender, content); ok {
		b.Verifying = append(b.Verifying, ev)
	}
}

// handleOlm handles an m.room.encrypted event.
func (b *Incoming) handleOlm(ev *toDevice, sealed *olm.Event) {
	plain, err := b.from.channel.Decrypt(sealed, b.sessions, b.seen, b.step)
	if err != nil {
		if errors.Is(err, olm.ErrNoSession) {
			b.Wedged = append(b.Wedged, channel.Wedged{User: ev.Sender, Key: sealed.SenderKey})
		}
		return
	}
	msg, err := olm.OpenEnvelope(plain, ev.Sender, sealed.SenderKey, b.from.dev.Account.User, b.from.dev.Ed25519)
	if err != nil {
		return
	}
	b.sessions.IsWith(msg.SenderKey, msg.Keys.Ed25519)
	if sharedhistory.IsBundle(msg.Type) {
		b.history.Bundle(msg)
		return
	}
	switch msg.Type {
	case "m.room_key":
		b.handleRoomKey(msg)
	case "m.dummy":
		// Its only purpose is the new session (requirement 6.12).
	case "m.secret.send":
		b.gossip.Secret(msg)
	case gossip.TypePush:
		b.gossip.Pushed(msg)
	case "m.forwarded_room_key":
		b.gossip.RoomKey(msg)
	case "m.room.encrypted",
		"m.room_key.withheld", "m.room_key_request", "m.secret.request", wire.TypeMoved:
		// Not requested, or never sent over Olm.
	default:
		if strings.HasPrefix(msg.Type, verification.Prefix) {
			b.verify(msg.Type, msg.Sender, msg.Content) // as in clear
			return
		}
		b.other = append(b.other, msg)
	}
}

// passOthers keeps decrypted messages of other types for the client, if the sender's device
// is confirmed by its owner (requirement 1.18 holds for them, too).
func (b *Incoming) passOthers(ctx context.Context) error {
	if len(b.other) == 0 {
		return nil
	}
	users := make([]id.UserID, len(b.other))
	for i, msg := range b.other {
		users[i] = msg.Sender
	}
	slices.Sort(users)
	known, err := b.from.dev.Account.Tracker.Cached(ctx, slices.Compact(users))
	if err != nil {
		return fmt.Errorf("look up the senders of to-device messages: %w", err)
	}
	mode := b.from.dev.Env.Policy().Receive
	for _, msg := range b.other {
		switch trustcache.ToDevice(msg.Type, msg.Owner(), known[msg.Sender], mode) {
		case trustcache.ToDeviceProcess:
			b.passToClient(toDevice{Type: msg.Type, Sender: msg.Sender, Content: msg.Content, Decrypted: true})
		case trustcache.ToDeviceDrop:
		}
	}
	return nil
}

// passToClient keeps an event for the client.
func (b *Incoming) passToClient(ev toDevice) {
	raw, err := json.Marshal(ev)
	if err != nil {
		return
	}
	b.ForClient = append(b.ForClient, raw)
}

// handleWithheld stores the reason why somebody did not send us a key. It proves nothing
// and does not stop a key that arrives later (requirement 10.7), but nothing is held for one any
// longer. m.no_olm is not about a key:
// who says it has no Olm session with us and is given a new one, see channel.Olm.Unwedge.
func (b *Incoming) handleWithheld(ev *toDevice) {
	var note struct {
		Algorithm string        `json:"algorithm"`
		RoomID    id.RoomID     `json:"room_id"`
		SessionID id.SessionID  `json:"session_id"`
		Code      string        `json:"code"`
		Reason    string        `json:"reason"`
		SenderKey id.Curve25519 `json:"sender_key"`
		FromDev   id.DeviceID   `json:"from_device"`
	}
	if err := strictjson.Unmarshal(ev.Content, &note); err != nil || note.Code == "" || len(note.Code) > wire.MaxIDLength {
		return
	}
	if note.Code == "m.no_olm" {
		if len(note.FromDev) <= wire.MaxIDLength && (note.SenderKey == "" || trustcache.OneSpelling(note.SenderKey)) { // requirement 10.4: the key is always there
			b.Wedged = append(b.Wedged, channel.Wedged{User: ev.Sender, Key: note.SenderKey, Device: note.FromDev})
		}
		return
	}
	if note.RoomID == "" || note.SessionID == "" || len(note.SessionID) > wire.MaxIDLength || len(note.RoomID) > wire.MaxIDLength {
		return
	}
	ref := store.SessionRef{RoomID: note.RoomID, SessionID: note.SessionID}
	b.ch.Withheld = append(b.ch.Withheld, store.WithheldNote{SessionRef: ref, Code: note.Code, Reason: wire.Truncate(note.Reason, wire.MaxIDLength)})
	b.ch.ReadyPending = append(b.ch.ReadyPending, ref)
	b.Withheld = true
}
