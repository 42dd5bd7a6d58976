package gossip

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

// AskKeysLater requests missing keys after askKeysAfter. The caller holds the device's lock.
func (x *Exchange) AskKeysLater() {
	if x.askTimer != nil || x.Ended() {
		return
	}
	x.askTimer = time.AfterFunc(askKeysAfter, func() {
		x.Mu.Lock()
		defer x.Mu.Unlock()
		x.askTimer = nil
		x.AskKeysNow()
	})
}

// AskKeysNow requests missing keys with the next maintenance. The caller holds the device's
// lock.
func (x *Exchange) AskKeysNow() {
	x.askKeys = true
	x.host.KickLocked()
}

// IsAsking reports whether missing keys will be requested. The caller holds the device's
// lock.
func (x *Exchange) IsAsking() bool { return x.askTimer != nil }

// Stop ends what waits to be requested. The caller holds the device's lock.
func (x *Exchange) Stop() {
	if x.askTimer != nil {
		x.askTimer.Stop()
	}
}

// RequestKeys requests the keys that events still wait for.
func (x *Exchange) RequestKeys(ctx context.Context) error {
	x.Mu.Lock()
	due := x.askKeys
	x.Mu.Unlock()
	if !due || !x.host.IsSigned() {
		return nil
	}
	own, err := x.Account.Tracker.Own(ctx)
	if err != nil {
		return fmt.Errorf("look up who to ask for room keys: %w", err)
	}
	if !own.Verified {
		return nil
	}
	others := x.confirmedOthers(own)
	var refs []store.SessionRef
	if len(others) > 0 {
		if refs, err = x.Env.Store.PendingSessions(ctx, x.Account.Row, x.RowID, maxKeyAsks); err != nil {
			return fmt.Errorf("look for room keys to ask for: %w", err)
		}
	}
	x.Mu.Lock()
	defer x.Mu.Unlock()
	if err := x.loadKeyAsks(ctx); err != nil {
		return err
	}
	all, asks, more := x.newKeyAsks(refs, others)
	if len(asks) == 0 {
		x.askKeys = false
		return nil
	}
	s := x.Begin()
	for ref, ask := range asks {
		s.Changes.Outbox = append(s.Changes.Outbox, x.keyRequestItems(ask, "", keyRequestContent(x.ID, ref, ask))...)
	}
	if err := x.keepKeyAsks(s.Changes, all); err != nil {
		return err
	}
	s.After(func() {
		x.keyAsks, x.askKeys = all, false
		x.host.OutboxFilled()
		if more {
			x.AskKeysLater()
		}
		x.host.KickLocked()
	})
	return s.Commit(ctx, "requests for room keys")
}

// newKeyAsks makes requests for those of the keys that were not requested of all other
// devices. It returns all requests (all), the new ones (asks), and whether there are more
// to make. The caller holds the device's lock.
func (x *Exchange) newKeyAsks(refs []store.SessionRef, others []*trustcache.Device) (all, asks map[store.SessionRef]*keyAsk, more bool) {
	now := x.Env.Now()
	all = maps.Clone(x.keyAsks)
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
		ask := &keyAsk{id: rand.Text(), to: make(map[id.DeviceID]bool, len(others)), until: now.Add(answerWithin)}
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
func (x *Exchange) keyRequestItems(ask *keyAsk, but id.DeviceID, content json.RawMessage) []store.OutboxItem {
	var messages []olm.Message
	for dev := range ask.to {
		if dev != but {
			messages = append(messages, olm.Message{To: &trustcache.Device{UserID: x.Account.User, DeviceID: dev}, Content: content})
		}
	}
	return olm.OutboxItems("m.room_key_request", messages, x.Env.Now())
}

// CancelKeyRequests cancels the requests for keys that ch stores, in the same write
// (requirement 11.3). by names the device that answered, if one did. The caller calls done
// once ch is written, and holds the device's lock.
func (x *Exchange) CancelKeyRequests(ctx context.Context, ch *store.Changes, by map[store.SessionRef]id.DeviceID) (done func(), err error) {
	if len(ch.InboundSessions) == 0 {
		return func() {}, nil
	}
	if err := x.loadKeyAsks(ctx); err != nil {
		return nil, err
	}
	rest := maps.Clone(x.keyAsks)
	var answered []store.SessionRef
	for i := range ch.InboundSessions {
		ref := ch.InboundSessions[i].SessionRef
		ask := x.keyAsks[ref]
		if ask == nil || slices.Contains(answered, ref) {
			continue
		}
		answered = append(answered, ref)
		delete(rest, ref)
		ch.Outbox = append(ch.Outbox, x.keyRequestItems(ask, by[ref], strictjson.Object{
			{Name: "action", Value: strictjson.Quote("request_cancellation")}, {Name: "request_id", Value: strictjson.Quote(ask.id)},
			{Name: "requesting_device_id", Value: strictjson.Quote(x.ID.String())},
		}.Encode())...)
	}
	if len(answered) == 0 {
		return func() {}, nil
	}
	if err := x.keepKeyAsks(ch, rest); err != nil {
		return nil, err
	}
	return func() {
		x.keyAsks = rest
		x.host.OutboxFilled()
		x.host.KickLocked()
	}, nil
}

// keepForwards passes the room keys that answer our requests to keep. ch is what the step
// stores so far.
func (in *Incoming) keepForwards(ctx context.Context, ch *store.Changes, keep func(store.InboundSession)) error {
	if len(in.forwards) == 0 {
		return nil
	}
	x := in.x
	if err := x.loadKeyAsks(ctx); err != nil {
		return err
	}
	own, err := x.Account.Tracker.Own(ctx)
	if err != nil {
		return fmt.Errorf("look up who sent a room key: %w", err)
	}
	var rows []store.InboundSession
	var refs []store.SessionRef
	from := make(map[store.SessionRef]id.DeviceID)
	for _, msg := range in.forwards {
		row, dev := x.forwardedKey(msg, own)
		if dev == "" {
			x.countRefusedForward()
			continue
		}
		rows, refs, from[row.SessionRef] = append(rows, row), append(refs, row.SessionRef), dev
	}
	known, err := x.Env.Store.InboundSessions(ctx, x.Account.Row, x.RowID, refs)
	if err != nil {
		return fmt.Errorf("load room keys: %w", err)
	}
	for _, row := range ch.InboundSessions { // those of this step
		known[row.SessionRef] = row
	}
	none := &megolm.MoreOwners{} // a forward proves no owner
	for i := range rows {
		row, news, err := megolm.MergeKept(&rows[i], known, none)
		if err != nil {
			return err
		}
		if !news {
			x.countRefusedForward() // also a key that contradicts a stored one (attack A12)
			continue
		}
		row.ReceivedAt = megolm.ReceivedAfter(known[row.SessionRef], x.Env.Now())
		known[row.SessionRef] = row
		keep(row)
		in.forwardedBy[row.SessionRef] = from[row.SessionRef]
		x.Env.Counts.Forwards.WithLabelValues("received").Inc()
	}
	return nil
}

func (x *Exchange) countRefusedForward() {
	x.Env.Counts.Forwards.WithLabelValues("refused").Inc()
}

// forwardedKey parses an m.forwarded_room_key that came over Olm. It returns no device if
// the key was not requested, not from the device that sent it, or if that device is not
// confirmed. own is the own user as known. The caller holds the device's lock.
func (x *Exchange) forwardedKey(msg *olm.Received, own *trustcache.User) (store.InboundSession, id.DeviceID) {
	none := store.InboundSession{}
	data, err := strictjson.Parse(msg.Content)
	if err != nil || !own.Known() || !own.Verified || msg.Sender != own.UserID {
		return none, ""
	}
	room, _ := data.Text("room_id")
	sessionID, _ := data.Text("session_id")
	ref := store.SessionRef{RoomID: id.RoomID(room), SessionID: id.SessionID(sessionID)}
	ask := x.keyAsks[ref]
	if ask == nil || !x.Env.Now().Before(ask.until) {
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
