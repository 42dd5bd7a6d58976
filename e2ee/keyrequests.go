package e2ee

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// Our m.room_key_request for keys that events wait for. They go to the user's other devices
// that the identity has confirmed, if we verified the identity, and only keys from those
// are accepted (requirements 11.4, 11.6). A forwarded key proves nothing about who sent an
// event; its source is stored as such.

const (
	// askKeysAfter is how long an event waits before its key is requested: most keys come
	// right after their event, or from the backup.
	askKeysAfter = 10 * time.Second
	// maxKeyAsks bounds the requested keys, keyAsksAtOnce those of one round.
	maxKeyAsks    = 200
	keyAsksAtOnce = 20
)

// missedKeys records whether keys are missing, and returns how often keys were stored.
func (g *gossip) missedKeys(missing bool) int {
	g.Mu.Lock()
	defer g.Mu.Unlock()
	if missing {
		g.askKeysLater()
	}
	return g.host.keysStored()
}

// askKeysLater requests missing keys after askKeysAfter. The caller holds mu.
func (g *gossip) askKeysLater() {
	if g.askTimer != nil || g.Ended() {
		return
	}
	g.askTimer = time.AfterFunc(askKeysAfter, func() {
		g.Mu.Lock()
		defer g.Mu.Unlock()
		g.askTimer, g.askKeys = nil, true
		g.host.kickLocked()
	})
}

// requestKeys requests the keys that events still wait for.
func (g *gossip) requestKeys(ctx context.Context) error {
	g.Mu.Lock()
	due := g.askKeys
	g.Mu.Unlock()
	if !due || g.host.ownNow() != ownSigned {
		return nil
	}
	own, err := g.acct.Tracker.Own(ctx)
	if err != nil {
		return fmt.Errorf("look up who to ask for room keys: %w", err)
	}
	if !own.Verified {
		return nil
	}
	others := g.confirmedOthers(own)
	var refs []store.SessionRef
	if len(others) > 0 {
		if refs, err = g.Env.Store.PendingSessions(ctx, g.acct.Row, g.RowID, maxKeyAsks); err != nil {
			return fmt.Errorf("look for room keys to ask for: %w", err)
		}
	}
	g.Mu.Lock()
	defer g.Mu.Unlock()
	if err := g.loadKeyAsks(ctx); err != nil {
		return err
	}
	all, asks, more := g.newKeyAsks(refs, others)
	if len(asks) == 0 {
		g.askKeys = false
		return nil
	}
	s := g.Begin()
	for ref, ask := range asks {
		s.Changes.Outbox = append(s.Changes.Outbox, g.keyRequestItems(ask, "", keyRequestContent(g.ID, ref, ask))...)
	}
	if err := g.keepKeyAsks(s.Changes, all); err != nil {
		return err
	}
	s.After(func() {
		g.keyAsks, g.askKeys = all, false
		g.host.outboxFilled()
		if more {
			g.askKeysLater()
		}
		g.host.kickLocked()
	})
	return s.Commit(ctx, "requests for room keys")
}

// newKeyAsks makes requests for those of the keys that were not requested of all other
// devices. It returns all requests (all), the new ones (asks), and whether there are more
// to make. The caller holds mu.
func (g *gossip) newKeyAsks(refs []store.SessionRef, others []*trustcache.Device) (all, asks map[store.SessionRef]*keyAsk, more bool) {
	now := g.Env.Now()
	all = maps.Clone(g.keyAsks)
	maps.DeleteFunc(all, func(_ store.SessionRef, ask *keyAsk) bool { return !now.Before(ask.until) })
	asks = make(map[store.SessionRef]*keyAsk)
	for _, ref := range refs {
		old := all[ref]
		if old != nil && !slices.ContainsFunc(others, func(dev *trustcache.Device) bool { return !old.to[dev.DeviceID] }) {
			continue
		}
		if old == nil && len(all) >= maxKeyAsks {
			continue
		}
		if len(asks) == keyAsksAtOnce {
			return all, asks, true
		}
		ask := &keyAsk{id: rand.Text(), to: make(map[id.DeviceID]bool, len(others)), until: now.Add(askFor)}
		if old != nil {
			ask.id = old.id // requirement 11.1
		}
		for _, dev := range others {
			ask.to[dev.DeviceID] = true
		}
		all[ref], asks[ref] = ask, ask
	}
	return all, asks, false
}

// keyRequestContent returns the content of a request. It has no sender key: it is not
// known, and nobody may look up a session by it (requirement 11.2).
func keyRequestContent(from id.DeviceID, ref store.SessionRef, ask *keyAsk) json.RawMessage {
	body := strictjson.Object{
		{Name: "algorithm", Value: strictjson.Quote(wire.AlgorithmMegolm)}, {Name: "room_id", Value: strictjson.Quote(ref.RoomID.String())}, {Name: "session_id", Value: strictjson.Quote(ref.SessionID.String())},
	}.Encode()
	return strictjson.Object{
		{Name: "action", Value: strictjson.Quote("request")}, {Name: "body", Value: body}, {Name: "request_id", Value: strictjson.Quote(ask.id)},
		{Name: "requesting_device_id", Value: strictjson.Quote(from.String())},
	}.Encode()
}

// keyRequestItems returns outbox items with a request or its cancellation for the devices
// that were asked, without one of them (but).
func (g *gossip) keyRequestItems(ask *keyAsk, but id.DeviceID, content json.RawMessage) []store.OutboxItem {
	var messages []olm.Message
	for dev := range ask.to {
		if dev != but {
			messages = append(messages, olm.Message{To: &trustcache.Device{UserID: g.acct.User, DeviceID: dev}, Content: content})
		}
	}
	return olm.OutboxItems("m.room_key_request", messages, g.Env.Now())
}

// cancelKeyAsks cancels the requests for keys that ch stores, in the same write
// (requirement 11.3). by names the device that answered, if one did. The caller calls done
// once ch is written, and holds mu.
func (g *gossip) cancelKeyAsks(ctx context.Context, ch *store.Changes, by map[store.SessionRef]id.DeviceID) (done func(), err error) {
	if len(ch.InboundSessions) == 0 {
		return func() {}, nil
	}
	if err := g.loadKeyAsks(ctx); err != nil {
		return nil, err
	}
	rest := maps.Clone(g.keyAsks)
	var answered []store.SessionRef
	for i := range ch.InboundSessions {
		ref := ch.InboundSessions[i].SessionRef
		ask := g.keyAsks[ref]
		if ask == nil || slices.Contains(answered, ref) {
			continue
		}
		answered = append(answered, ref)
		delete(rest, ref)
		ch.Outbox = append(ch.Outbox, g.keyRequestItems(ask, by[ref], strictjson.Object{
			{Name: "action", Value: strictjson.Quote("request_cancellation")}, {Name: "request_id", Value: strictjson.Quote(ask.id)},
			{Name: "requesting_device_id", Value: strictjson.Quote(g.ID.String())},
		}.Encode())...)
	}
	if len(answered) == 0 {
		return func() {}, nil
	}
	if err := g.keepKeyAsks(ch, rest); err != nil {
		return nil, err
	}
	return func() {
		g.keyAsks = rest
		g.host.outboxFilled()
		g.host.kickLocked()
	}, nil
}

// keepForwards stores the room keys that answer our requests. The caller holds mu.
func (b *toDeviceStep) keepForwards(ctx context.Context) error {
	if len(b.forwards) == 0 {
		return nil
	}
	if err := b.d.gossip.loadKeyAsks(ctx); err != nil {
		return err
	}
	own, err := b.d.acct.Tracker.Own(ctx)
	if err != nil {
		return fmt.Errorf("look up who sent a room key: %w", err)
	}
	var rows []store.InboundSession
	var refs []store.SessionRef
	from := make(map[store.SessionRef]id.DeviceID)
	for _, msg := range b.forwards {
		row, dev := b.d.gossip.forwardedKey(msg, own)
		if dev == "" {
			b.countRefusedForward()
			continue
		}
		rows, refs, from[row.SessionRef] = append(rows, row), append(refs, row.SessionRef), dev
	}
	known, err := b.d.core.Env.Store.InboundSessions(ctx, b.d.acct.Row, b.d.core.RowID, refs)
	if err != nil {
		return fmt.Errorf("load room keys: %w", err)
	}
	for _, row := range b.ch.InboundSessions { // those of this step
		known[row.SessionRef] = row
	}
	none := &megolm.MoreOwners{} // a forward proves no owner
	for i := range rows {
		row, news, err := megolm.MergeKept(&rows[i], known, none)
		if err != nil {
			return err
		}
		if !news {
			b.countRefusedForward() // also a key that contradicts a stored one (attack A12)
			continue
		}
		row.ReceivedAt = b.d.core.Env.Now()
		known[row.SessionRef] = row
		b.keepRoomKey(row)
		b.forwardedBy[row.SessionRef] = from[row.SessionRef]
		b.d.core.Env.Counts.Forwards.WithLabelValues("received").Inc()
	}
	return nil
}

func (b *toDeviceStep) countRefusedForward() {
	b.d.core.Env.Counts.Forwards.WithLabelValues("refused").Inc()
}

// forwardedKey parses an m.forwarded_room_key that came over Olm. It returns no device if
// the key was not requested, not from the device that sent it, or if that device is not
// confirmed. own is the own user as known. The caller holds mu.
func (g *gossip) forwardedKey(msg *olm.Received, own *trustcache.User) (store.InboundSession, id.DeviceID) {
	none := store.InboundSession{}
	data, err := strictjson.Parse(msg.Content)
	if err != nil || !own.Known() || !own.Verified || msg.Sender != own.UserID {
		return none, ""
	}
	room, _ := data.Text("room_id")
	sessionID, _ := data.Text("session_id")
	ref := store.SessionRef{RoomID: id.RoomID(room), SessionID: id.SessionID(sessionID)}
	ask := g.keyAsks[ref]
	if ask == nil || !g.Env.Now().Before(ask.until) {
		return none, ""
	}
	dev := own.DeviceByCurve25519(msg.SenderKey)
	if !trustcache.MayHoldSecrets(own, dev) || dev.Ed25519 != msg.Keys.Ed25519 || !ask.to[dev.DeviceID] {
		return none, ""
	}
	claimed, _ := data.Text("sender_claimed_ed25519_key")
	kept := make(strictjson.Object, 0, 6) // unknown members are dropped
	for _, name := range []string{"algorithm", "session_key", "sender_key", megolm.FieldSharedHistory, megolm.FieldSharedUnstable} {
		if value := data.Get(name); value != nil {
			kept = append(kept, strictjson.Member{Name: name, Value: value})
		}
	}
	chain, err := json.Marshal(append(megolm.ForwardedBy(data), msg.SenderKey.String()))
	if err != nil {
		return none, ""
	}
	kept = append(kept, strictjson.Member{Name: megolm.FieldForwards, Value: chain})
	kept = append(kept, strictjson.Member{Name: "sender_claimed_keys", Value: strictjson.Object{{Name: "ed25519", Value: strictjson.Quote(claimed)}}.Encode()})
	row, err := megolm.FromData(ref, kept.Encode(), store.SourceForwarded, false)
	if err != nil {
		return none, ""
	}
	return row, dev.DeviceID
}
