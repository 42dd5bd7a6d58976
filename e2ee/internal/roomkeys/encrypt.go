package roomkeys

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
	"e2ee-proxy/store"
)

// Outgoing is a room event that a client sends in clear.
type Outgoing struct {
	RoomID  id.RoomID
	Type    string
	TxnID   string // the client's; for POST the caller makes one
	Content json.RawMessage
}

// Encrypted is an event that may be sent.
type Encrypted struct {
	// Content is the content of the m.room.encrypted event to send.
	Content json.RawMessage
	// TxnID is the transaction ID to send it with: the client's, unless that was used for
	// something else.
	TxnID string
	// EventID is set when this transaction was sent before: the caller answers with it and
	// sends nothing.
	EventID id.EventID
	// Again is true for what was encrypted before and has perhaps been sent.
	Again bool
	// MadeAt is when that was; zero for what is new.
	MadeAt time.Time
}

// TransactionTurn lets one request at a time send in a transaction. Dendrite (0.15.2) makes two
// events of one transaction when it is repeated while the first request is under way. give ends the
// turn.
func (o *Outbound) TransactionTurn(ctx context.Context, out Outgoing) (give func(), err error) {
	return o.retries.Take(ctx, store.TxnRef{RoomID: out.RoomID, Type: typeEncrypted, TxnID: out.TxnID})
}

// Turn lets one send at a time prepare in a room. give ends the turn.
func (o *Outbound) Turn(ctx context.Context, room id.RoomID) (give func(), err error) {
	return o.sends.Take(ctx, room)
}

// Encrypt encrypts the event with the session that [Outbound.Share] has shared. The ratchet and the transaction are stored before the
// ciphertext is returned, so that an index is never used for two plaintexts. txn is what
// [Outbound.Transaction] or [Outbound.Repeated] returned; if it is stored already nothing is
// changed, and the error is [store.ErrTransactionTaken].
func (o *Outbound) Encrypt(ctx context.Context, out Outgoing, txn store.Transaction, to *rooms.Audience, who *Recipients) (Encrypted, error) {
	payload, relation, err := clearPayload(out)
	if err != nil {
		return Encrypted{}, err
	}
	o.Mu.Lock()
	defer o.Mu.Unlock()
	live := o.sessions[out.RoomID]
	if live == nil || live.row.Discard || !o.rooms.Current(out.RoomID, to) {
		return Encrypted{}, core.ErrRoomChanged
	}
	if err := who.Still(ctx); err != nil {
		return Encrypted{}, err
	}
	next := *live.sess
	cipher, err := live.writer.Encrypt(&next, payload)
	if err != nil {
		return Encrypted{}, fmt.Errorf("encrypt: %w", err)
	}
	content := make(strictjson.Object, 0, 4)
	content = append(content,
		strictjson.Member{Name: "algorithm", Value: strictjson.Quote(wire.AlgorithmMegolm)},
		strictjson.Member{Name: "ciphertext", Value: strictjson.Quote(string(cipher))},
		strictjson.Member{Name: "session_id", Value: strictjson.Quote(live.row.SessionID.String())})
	if relation != nil {
		content = append(content, strictjson.Member{Name: "m.relates_to", Value: relation})
	}
	sealed := content.Encode()
	row := live.row
	row.Messages++
	row.Pickle = next.PickleLibOlm()
	s := o.Begin()
	s.Changes.OutboundSessions = []store.OutboundSession{row}
	o.channel.Delivered(s)
	txn.Ciphertext = sealed
	s.Changes.NewTransactions = []store.Transaction{txn}
	s.After(func() { live.row, live.sess = row, &next })
	if err := s.Commit(ctx, "the ratchet"); err != nil {
		return Encrypted{}, err // not returned, so the index is unused
	}
	o.countReuse(out, txn)
	return Encrypted{Content: sealed, TxnID: txn.TxnID}, nil
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
