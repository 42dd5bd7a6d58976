package store

import (
	"context"
	"database/sql"
	"fmt"

	"e2ee-proxy/store/internal/sqlio"
)

// An item is never replaced: what is sent again must be the same bytes (requirement 5.5).
var (
	putOutbox  = sqlio.KeepRows("outbox", sqlio.OfDevice, []string{"txn_id"}, []string{"seq", "event_type", "body", "created_at"})
	dropOutbox = sqlio.WhereIn("DELETE FROM outbox", sqlio.OfDevice, "txn_id", "")
)

const selectOutbox = `SELECT txn_id, seq, event_type, body, created_at FROM outbox
	WHERE account = $1 AND device = $2 ORDER BY seq`

func (b *saver) outbox(all []OutboxItem) {
	if len(all) == 0 {
		return
	}
	b.ofDevice = true
	check := &sqlio.Args{}
	for _, item := range all {
		check.ID(item.TxnID)
	}
	b.step("outbox", check, func(ctx context.Context, t *sqlio.Tx) error {
		seq, err := b.reserveNumbers(ctx, t, len(all))
		if err != nil {
			return err
		}
		p := &sqlio.Args{}
		for _, item := range all {
			seq++
			p.ID(item.TxnID)
			p.Num(seq)
			p.Text(item.EventType)
			p.Bytes(item.Body)
			p.Time(item.CreatedAt)
		}
		err = t.RunList(ctx, putOutbox, []any{b.acct.ID, b.dev}, p.Vals)
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
	err := db.reader.Query(ctx, selectOutbox, []any{acct.ID, device}, func(r *sql.Rows) error {
		var item OutboxItem
		err := r.Scan(sqlio.TextInto(&item.TxnID), &item.Seq, sqlio.TextInto(&item.EventType), sqlio.JSONInto(&item.Body), sqlio.TimeInto(&item.CreatedAt))
		all = append(all, item)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	return all, nil
}
