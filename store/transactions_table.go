package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"time"

	"e2ee-proxy/store/internal/sqlio"
)

// Table transactions names a transaction by a keyed hash, because a client may choose long
// IDs and because the type of a clear event must not be stored in clear. What is stored
// never changes.
var putTransactions = sqlio.KeepRows("transactions", sqlio.OfDevice, []string{"ref"}, []string{"said", "ciphertext", "created_at"})

const (
	selectTransaction = `SELECT said, ciphertext, created_at FROM transactions
		WHERE account = $1 AND device = $2 AND ref = $3`
	pruneTransactions = `DELETE FROM transactions WHERE (account, device, ref) IN
		(SELECT account, device, ref FROM transactions WHERE created_at < $1 LIMIT 1000)`
)

func (db *DB) hashTxn(r TxnRef) [32]byte {
	return db.Hash("transaction", append(lengths(string(r.RoomID), r.Type), r.TxnID...))
}

// HashSaid returns the keyed hash of what a client sends: an event of this type with this
// content, in the session with this number of its device.
func (db *DB) HashSaid(session int, eventType string, content []byte) [32]byte {
	b := binary.AppendUvarint(lengths(eventType), uint64(session))
	return db.Hash("said", append(b, content...))
}

// lengths joins texts so that it is seen where one ends.
func lengths(texts ...string) []byte {
	b := make([]byte, 0, 256)
	for _, s := range texts {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

func (b *saver) transactions(all []Transaction) {
	b.listOfDevice("transactions", putTransactions, b.transactionArgs(all))
}

func (b *saver) newTransactions(all []Transaction) {
	p := b.transactionArgs(all)
	if len(p.Vals) == 0 && p.Err == nil {
		return
	}
	b.ofDevice = true
	b.step("transactions", p, func(ctx context.Context, t *sqlio.Tx) error {
		return t.MustList(ctx, ErrTransactionTaken, putTransactions, []any{b.acct.ID, b.dev}, p.Vals)
	})
}

func (b *saver) transactionArgs(all []Transaction) *sqlio.Args {
	p := &sqlio.Args{}
	for _, t := range lastByKey(all, func(t *Transaction) TxnRef { return t.TxnRef }) {
		h := b.db.hashTxn(t.TxnRef)
		p.Bytes(h[:])
		p.Bytes(t.Said[:])
		p.Bytes(t.Ciphertext)
		p.Time(t.CreatedAt)
	}
	return p
}

// Transaction reads what is known of a transaction, or returns [ErrNotFound].
func (db *DB) Transaction(ctx context.Context, acct *Account, device int64, ref TxnRef) (Transaction, error) {
	t := Transaction{TxnRef: ref}
	h := db.hashTxn(ref)
	found := false
	err := db.reader.Query(ctx, selectTransaction, []any{acct.ID, device, h[:]}, func(r *sql.Rows) error {
		found = true
		var said []byte
		if err := r.Scan(&said, sqlio.JSONInto(&t.Ciphertext), sqlio.TimeInto(&t.CreatedAt)); err != nil {
			return err
		}
		copy(t.Said[:], said)
		return nil
	})
	if err == nil && !found {
		err = ErrNotFound
	}
	if err != nil {
		return Transaction{}, fmt.Errorf("read transaction: %w", err)
	}
	return t, nil
}

// PruneTransactions deletes transactions made before a time and returns how many.
func (db *DB) PruneTransactions(ctx context.Context, before time.Time) (int64, error) {
	return db.prune(ctx, "transactions", pruneTransactions, sqlio.Micros(before))
}
