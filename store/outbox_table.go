package store

import (
	"context"
	"database/sql"
	"fmt"
)

// An item is never replaced: what is sent again must be the same bytes (requirement 5.5).
var (
	putOutbox  = keepRows("outbox", ofDevice, []string{"txn_id"}, []string{"seq", "event_type", "body", "created_at"})
	dropOutbox = whereIn("DELETE FROM outbox", ofDevice, "txn_id", "")
)

const selectOutbox = `SELECT txn_id, seq, event_type, body, created_at FROM outbox
	WHERE account = $1 AND device = $2 ORDER BY seq`

func (b *saver) outbox(all []OutboxItem) {
	if len(all) == 0 {
		return
	}
	b.ofDevice = true
	check := &args{}
	for _, item := range all {
		check.id(item.TxnID)
	}
	b.step("outbox", check, func(ctx context.Context, t *tx) error {
		seq, err := b.reserveNumbers(ctx, t, len(all))
		if err != nil {
			return err
		}
		p := &args{}
		for _, item := range all {
			seq++
			p.id(item.TxnID)
			p.num(seq)
			p.text(item.EventType)
			p.bytes(item.Body)
			p.time(item.CreatedAt)
		}
		_, err = t.list(ctx, putOutbox, []any{b.acct.ID, b.dev}, p.vals)
		return err
	})
}

func (b *saver) deleteOutbox(txnIDs []string) {
	b.listOfDevice("delete from outbox", dropOutbox, idArgs(txnIDs))
}

// Outbox reads the requests that still have to be sent, in the order in which they were
// saved.
func (db *DB) Outbox(ctx context.Context, acct *Account, device int64) ([]OutboxItem, error) {
	var all []OutboxItem
	err := db.reader.query(ctx, selectOutbox, []any{acct.ID, device}, func(r *sql.Rows) error {
		var item OutboxItem
		err := r.Scan(text(&item.TxnID), &item.Seq, text(&item.EventType), jsonColumn{&item.Body}, timeColumn{&item.CreatedAt})
		all = append(all, item)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	return all, nil
}
