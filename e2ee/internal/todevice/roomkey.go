package todevice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/megolm"
	"e2ee-proxy/e2ee/internal/olm"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
	"e2ee-proxy/trustcache"
)

// handleRoomKey checks an m.room_key and adds it to the step's keys (requirements 7.2, 8.2,
// 8.7).
func (b *Incoming) handleRoomKey(msg *olm.Received) {
	var key struct {
		Algorithm  string    `json:"algorithm"`
		RoomID     id.RoomID `json:"room_id"`
		SessionID  string    `json:"session_id"`
		SessionKey string    `json:"session_key"`
		// Any value but true means that the key is not shared with later members, whatever
		// its type.
		SharedHistory json.RawMessage `json:"shared_history"`
		SharedMSC3061 json.RawMessage `json:"org.matrix.msc3061.shared_history"`
	}
	if strictjson.Unmarshal(msg.Content, &key) != nil || key.Algorithm != wire.AlgorithmMegolm || key.RoomID == "" || len(key.RoomID) > wire.MaxIDLength {
		return
	}
	sess, err := session.NewMegolmInboundSession([]byte(key.SessionKey))
	if err != nil || sess.ID().String() != key.SessionID { // attack A16
		return
	}
	b.keys = append(b.keys, megolm.Arrived{
		Ref:           store.SessionRef{RoomID: key.RoomID, SessionID: id.SessionID(key.SessionID)},
		Session:       sess,
		Owner:         msg.Owner(),
		SharedHistory: string(key.SharedHistory) == "true" || string(key.SharedMSC3061) == "true", // requirement 17.1
	})
}

// keepRoomKeys decides which of the received keys are stored, with one query for all.
func (b *Incoming) keepRoomKeys(ctx context.Context) error {
	if len(b.keys) == 0 {
		return nil
	}
	refs := make([]store.SessionRef, len(b.keys))
	for i, k := range b.keys {
		refs[i] = k.Ref
	}
	known, err := b.from.dev.Env.Store.InboundSessions(ctx, b.from.dev.Account.Row, b.from.dev.RowID, refs)
	if err != nil {
		return fmt.Errorf("load room keys: %w", err)
	}
	senders, err := b.identifyOwners(ctx)
	if err != nil {
		return err
	}
	var again []store.OwnersRef // of known sessions
	for _, k := range b.keys {
		if known[k.Ref].SessionID != "" {
			again = append(again, store.OwnersRef{SessionRef: k.Ref, UserID: k.Owner.UserID})
		}
	}
	more, err := b.from.inbound.MoreOwners(ctx, again)
	if err != nil {
		return err
	}
	kept := make(map[store.SessionRef]store.InboundSession, len(b.keys))
	for _, k := range b.keys {
		if k.Refused {
			continue
		}
		row, err := megolm.Merge(k, known[k.Ref])
		if errors.Is(err, megolm.ErrAnothersKey) && megolm.WhoseOwner(known[k.Ref].Owner).Curve25519 != b.from.dev.Curve25519 {
			row, err = megolm.AddOwner(k, known[k.Ref], more, senders[k.Owner.UserID])
		}
		if err != nil {
			continue
		}
		row.ReceivedAt = megolm.ReceivedAfter(known[k.Ref], b.from.dev.Env.Now())
		known[k.Ref], kept[k.Ref] = row, row
	}
	for _, row := range kept {
		b.keepRoomKey(row)
	}
	return more.Collect(b.ch)
}

// keepRoomKey stages a room key. The reason why an earlier part was withheld is kept until
// that part arrives.
func (b *Incoming) keepRoomKey(row store.InboundSession) {
	b.ch.InboundSessions = append(b.ch.InboundSessions, row)
	b.ch.ReadyPending = append(b.ch.ReadyPending, row.SessionRef)
	if row.FirstIndex == 0 {
		b.ch.DeleteWithheld = append(b.ch.DeleteWithheld, row.SessionRef)
	}
}

// identifyOwners adds what the tracker knows of the senders, without a request: when an
// event is judged, later knowledge is added, also whether a device is confirmed. Dehydrated
// devices send nothing (requirement 24.2).
func (b *Incoming) identifyOwners(ctx context.Context) (map[id.UserID]*trustcache.User, error) {
	var users []id.UserID
	for _, k := range b.keys {
		users = append(users, k.Owner.UserID)
	}
	slices.Sort(users)
	known, err := b.from.dev.Account.Tracker.Cached(ctx, slices.Compact(users))
	if err != nil {
		return nil, fmt.Errorf("look up the senders of room keys: %w", err)
	}
	mode := b.from.dev.Env.Policy().Receive
	for i := range b.keys {
		k := &b.keys[i]
		user := known[k.Owner.UserID]
		k.Owner, _ = k.Owner.Upgrade(user)
		k.Refused = trustcache.ToDevice("m.room_key", k.Owner, user, mode) != trustcache.ToDeviceProcess
	}
	return known, nil
}
