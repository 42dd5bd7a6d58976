package roomkeys

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/store"
)

// A transaction ID is good for one event of one session of a device (CS, Transaction
// identifiers). Homeservers take another event under the same ID for a repetition of the
// first one and drop it: what a program that numbers its sends from 0 after each login says,
// or that names a file and its text alike. Here it is a new event, in a transaction of its
// own, whose ID is made of what was said, so that repeating it is again one event.

// maxSent bounds the transactions of a device whose event IDs are kept in memory. A retry
// of any other costs one request: the homeserver knows its event ID.
const maxSent = 256

// typeEncrypted is the type of encrypted events.
const typeEncrypted = "m.room.encrypted"

// maxNames is how many names of a transaction are tried. More than two are taken only if a
// client uses the IDs that are made here.
const maxNames = 4

// sent is a transaction that the homeserver has confirmed; without an event it was refused.
type sent struct {
	said  [32]byte
	event id.EventID
}

// LoadSession reads from the Meta of the stored row in which session the device is.
func (o *Outbound) LoadSession(meta json.RawMessage) { o.logins = core.ReadMeta(meta).Logins }

// BeginSession keeps the transactions of a login apart from those before it.
func (o *Outbound) BeginSession(ctx context.Context) error {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	logins := o.logins + 1
	s := o.Begin()
	if err := s.ChangeMeta(func(m *core.Meta) { m.Logins = logins }); err != nil {
		return err
	}
	s.After(func() { o.logins = logins })
	return s.Commit(ctx, "a login")
}

// said returns what names an event of a client: the same content however it is written.
func (o *Outbound) said(out Outgoing) [32]byte {
	canonical := jsontext.Value(out.Content).Clone()
	if canonical.Canonicalize() != nil {
		canonical = jsontext.Value(out.Content)
	}
	o.Mu.Lock()
	session := o.logins
	o.Mu.Unlock()
	return o.Env.Store.HashSaid(session, out.Type, canonical)
}

// Transaction returns the transaction in which an event is to be sent if its ID was not used
// before. Whether it was shows when it is stored: nothing is read for it.
func (o *Outbound) Transaction(out Outgoing) store.Transaction {
	return o.newTransaction(out, typeEncrypted)
}

func (o *Outbound) newTransaction(out Outgoing, wireType string) store.Transaction {
	return store.Transaction{
		TxnRef: store.TxnRef{RoomID: out.RoomID, Type: wireType, TxnID: out.TxnID}, Said: o.said(out), CreatedAt: o.Env.Now(),
	}
}

// transaction returns the transaction in which an event goes to the homeserver as one of
// wireType, and whether it is stored.
func (o *Outbound) transaction(ctx context.Context, out Outgoing, wireType string) (txn store.Transaction, stored bool, err error) {
	txn = o.newTransaction(out, wireType)
	for range maxNames {
		old, err := o.Env.Store.Transaction(ctx, o.Account.Row, o.RowID, txn.TxnRef)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return txn, false, nil
		case err != nil:
			return store.Transaction{}, false, fmt.Errorf("load transaction: %w", err)
		case old.Said == txn.Said:
			return old, true, nil
		}
		txn.TxnID += "~" + hex.EncodeToString(txn.Said[:8])
	}
	return store.Transaction{}, false, fmt.Errorf("%w: the transaction ID was used for too many other events", core.ErrCannotEncrypt)
}

// Repeated returns the stored result of a repeated transaction; for any other, the
// transaction in which the event is to be sent.
func (o *Outbound) Repeated(ctx context.Context, out Outgoing) (done Encrypted, txn store.Transaction, repeated bool, err error) {
	txn, repeated, err = o.transaction(ctx, out, typeEncrypted)
	if err != nil || !repeated {
		return Encrypted{}, txn, false, err
	}
	done = Encrypted{Content: txn.Ciphertext, TxnID: txn.TxnID, Again: true, MadeAt: txn.CreatedAt}
	o.Mu.Lock()
	defer o.Mu.Unlock()
	if sent := o.sent[txn.TxnRef]; sent.said == txn.Said {
		done.EventID, done.Again = sent.event, sent.event != ""
		if !done.Again { // unless it is refused again
			delete(o.sent, txn.TxnRef)
		}
	}
	return done, txn, true, nil
}

// ClearTransaction returns the transaction ID with which an event goes to the homeserver in
// clear: the client's, unless that was used for something else. It is stored first.
func (o *Outbound) ClearTransaction(ctx context.Context, out Outgoing) (string, error) {
	for range maxNames {
		txn, stored, err := o.transaction(ctx, out, out.Type)
		if err != nil || stored {
			return txn.TxnID, err
		}
		if err := o.keep(ctx, txn); err != nil {
			return "", err
		}
		// Another event of the same transaction ID may have been faster: what is stored counts.
		kept, err := o.Env.Store.Transaction(ctx, o.Account.Row, o.RowID, txn.TxnRef)
		if err != nil {
			return "", fmt.Errorf("load transaction: %w", err)
		}
		if kept.Said == txn.Said {
			o.countReuse(out, txn)
			return txn.TxnID, nil
		}
	}
	return "", fmt.Errorf("%w: the transaction ID was used for too many other events", core.ErrCannotEncrypt)
}

func (o *Outbound) keep(ctx context.Context, txn store.Transaction) error {
	o.Mu.Lock()
	defer o.Mu.Unlock()
	s := o.Begin()
	s.Changes.Transactions = []store.Transaction{txn}
	return s.Commit(ctx, "the transaction")
}

func (o *Outbound) countReuse(out Outgoing, txn store.Transaction) {
	if txn.TxnID != out.TxnID {
		o.Env.Counts.Reuses.Inc()
	}
}

// Sent remembers the event ID that the homeserver returned for an event that was sent with
// the transaction ID txn. If it is lost, a retry sends the same ciphertext with the same
// transaction ID, and the homeserver returns the same event.
func (o *Outbound) Sent(out Outgoing, txn string, event id.EventID) {
	said := o.said(out)
	o.Mu.Lock()
	defer o.Mu.Unlock()
	if len(o.sent) >= maxSent {
		clear(o.sent)
	}
	o.sent[store.TxnRef{RoomID: out.RoomID, Type: typeEncrypted, TxnID: txn}] = sent{said, event}
}
