package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// maxSent bounds the transactions of a device whose event IDs are kept in memory. A retry
// of any other costs one request: the homeserver knows its event ID.
const maxSent = 256

// Encrypt encrypts an event for a room and shares the room key with every device that may
// have it (docs/architecture.md, "A message into an encrypted room"). When it returns,
// everything is stored: a retry of the same transaction returns the same ciphertext
// (requirement 19.11).
func (d *Device) Encrypt(ctx context.Context, out Outgoing) (Encrypted, error) {
	if d.core.Mode != core.ModeProxied {
		return Encrypted{}, core.ErrNotProxied
	}
	give, err := d.megolmState.sends.Take(ctx, out.RoomID)
	if err != nil {
		return Encrypted{}, err
	}
	defer give()
	ref := store.TxnRef{RoomID: out.RoomID, Type: out.Type, TxnID: out.TxnID}
	if done, ok, err := d.megolmState.repeated(ctx, ref); err != nil || ok {
		return done, err
	}
	if !d.schedule.live.current(d.core.Env.Now()) {
		if err := d.catchUp(ctx); err != nil {
			return Encrypted{}, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
		}
	}
	if err := d.checkMaySend(ctx); err != nil {
		return Encrypted{}, err
	}
	for range maxRounds {
		to, err := d.rooms.Recipients(ctx, out.RoomID)
		if errors.Is(err, core.ErrRoomChanged) {
			continue
		}
		if err != nil {
			return Encrypted{}, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, err)
		}
		who, err := d.eligible(ctx, out.RoomID, to.Users)
		if err != nil {
			return Encrypted{}, err
		}
		err = d.shareSession(ctx, out.RoomID, to.Visibility, who)
		if errors.Is(err, core.ErrRoomChanged) {
			continue
		}
		if err != nil {
			return Encrypted{}, err
		}
		done, err := d.megolmState.encryptEvent(ctx, ref, out, to, who)
		if !errors.Is(err, core.ErrRoomChanged) {
			return done, err
		}
	}
	return Encrypted{}, fmt.Errorf("%w: %w", core.ErrCannotEncrypt, core.ErrRoomChanged)
}

// RoomEncryption returns whether a room is encrypted. An encrypted room stays encrypted for
// ever (requirement 20.3). For any other the homeserver is asked each time, so that nothing
// is sent in clear after somebody encrypts it (requirement 20.6).
func (d *Device) RoomEncryption(ctx context.Context, room id.RoomID) (RoomEncryption, error) {
	return d.rooms.Encryption(ctx, room)
}

// maxRounds bounds how often a send begins again because somebody left the room or lost the
// right to the key while it was shared.
const maxRounds = 4

// repeated returns the stored result of a repeated transaction.
func (m *megolmState) repeated(ctx context.Context, ref store.TxnRef) (Encrypted, bool, error) {
	m.Mu.Lock()
	event := m.sent[ref]
	m.Mu.Unlock()
	if event != "" {
		return Encrypted{EventID: event}, true, nil
	}
	txn, err := m.Env.Store.Transaction(ctx, m.acct.Row, m.RowID, ref)
	if errors.Is(err, store.ErrNotFound) {
		return Encrypted{}, false, nil
	}
	if err != nil {
		return Encrypted{}, false, fmt.Errorf("load transaction: %w", err)
	}
	return Encrypted{Content: txn.Ciphertext}, true, nil
}

// Sent remembers the event ID that the homeserver returned. If it is lost, a retry sends
// the same ciphertext with the same transaction ID, and the homeserver returns the same
// event.
func (d *Device) Sent(out Outgoing, event id.EventID) {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	if len(d.megolmState.sent) >= maxSent {
		clear(d.megolmState.sent)
	}
	d.megolmState.sent[store.TxnRef{RoomID: out.RoomID, Type: out.Type, TxnID: out.TxnID}] = event
}

// encryptEvent encrypts the event. The ratchet and the transaction are stored before the
// ciphertext is returned, so that an index is never used for two plaintexts.
func (m *megolmState) encryptEvent(ctx context.Context, ref store.TxnRef, out Outgoing, to *rooms.Audience, who *eligible) (Encrypted, error) {
	payload, relation, err := clearPayload(out)
	if err != nil {
		return Encrypted{}, err
	}
	m.Mu.Lock()
	defer m.Mu.Unlock()
	session := m.outbound[out.RoomID]
	if session == nil || session.row.Discard || !m.host.Current(out.RoomID, to) {
		return Encrypted{}, core.ErrRoomChanged
	}
	if err := m.host.stillEligible(ctx, who); err != nil {
		return Encrypted{}, err
	}
	next := *session.sess
	cipher, err := next.Encrypt(payload)
	if err != nil {
		return Encrypted{}, fmt.Errorf("encrypt: %w", err)
	}
	content := make(strictjson.Object, 0, 4)
	content = append(content,
		strictjson.Member{Name: "algorithm", Value: strictjson.Quote(wire.AlgorithmMegolm)},
		strictjson.Member{Name: "ciphertext", Value: strictjson.Quote(string(cipher))},
		strictjson.Member{Name: "session_id", Value: strictjson.Quote(session.row.SessionID.String())})
	if relation != nil {
		content = append(content, strictjson.Member{Name: "m.relates_to", Value: relation})
	}
	sealed := content.Encode()
	row := session.row
	row.Messages++
	row.Pickle = next.PickleLibOlm()
	s := m.Begin()
	s.Changes.OutboundSessions = []store.OutboundSession{row}
	s.Changes.Transactions = []store.Transaction{{TxnRef: ref, Ciphertext: sealed, CreatedAt: m.Env.Now()}}
	s.After(func() { session.row, session.sess = row, &next })
	if err := s.Commit(ctx, "the ratchet"); err != nil {
		return Encrypted{}, err // not returned, so the index is unused
	}
	return Encrypted{Content: sealed}, nil
}

// clearPayload returns the plaintext of a Megolm message (requirement 7.1) and the relation
// that stays in clear beside the ciphertext (requirements 19.1, 19.2). If the relation has
// more than may stay in clear, the plaintext contains all of it, too.
func clearPayload(out Outgoing) (payload []byte, relation json.RawMessage, err error) {
	content, err := strictjson.Parse(out.Content)
	if err != nil {
		return nil, nil, err
	}
	if whole := content.Get("m.relates_to"); whole != nil {
		var more bool
		if relation, more = wire.ClearRelation(whole); !more {
			content = content.Without("m.relates_to")
		}
	}
	return strictjson.Object{
		{Name: "content", Value: content.Encode()},
		{Name: "room_id", Value: strictjson.Quote(out.RoomID.String())},
		{Name: "type", Value: strictjson.Quote(out.Type)},
	}.Encode(), relation, nil
}
