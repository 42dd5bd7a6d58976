package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"e2ee-proxy/store/internal/sqlio"
)

// An item is never replaced: what is sent again must be the same bytes (requirement 5.5).
var (
	putOutbox  = sqlio.KeepRows("outbox", sqlio.OfDevice, []string{"txn_id"}, []string{"seq", "event_type", "body", "sealed_recipe", "created_at"})
	dropOutbox = sqlio.WhereIn("DELETE FROM outbox", sqlio.OfDevice, "txn_id", "")
)

const selectOutbox = `SELECT txn_id, seq, event_type, body, sealed_recipe, created_at FROM outbox
	WHERE account = $1 AND device = $2 ORDER BY seq`

func outboxRow(device int64, item *OutboxItem) []string {
	return []string{strconv.FormatInt(device, 10), item.TxnID, item.EventType}
}

func (b *saver) outbox(all []OutboxItem) {
	if len(all) == 0 {
		return
	}
	b.ofDevice = true
	check := &sqlio.Args{}
	recipes := make([][]byte, len(all))
	for i, item := range all {
		check.ID(item.TxnID)
		recipes[i] = b.acct.seal(item.Recipe.Reveal(), "outbox", "sealed_recipe", outboxRow(b.dev, &item)...)
	}
	b.step("outbox", check, func(ctx context.Context, t *sqlio.Tx) error {
		seq, err := b.reserveNumbers(ctx, t, len(all))
		if err != nil {
			return err
		}
		p := &sqlio.Args{}
		for i, item := range all {
			seq++
			p.ID(item.TxnID)
			p.Num(seq)
			p.Text(item.EventType)
			p.Bytes(item.Body)
			p.Bytes(recipes[i])
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
		var sealed []byte
		err := r.Scan(sqlio.TextInto(&item.TxnID), &item.Seq, sqlio.TextInto(&item.EventType), sqlio.JSONInto(&item.Body), &sealed, sqlio.TimeInto(&item.CreatedAt))
		if err != nil {
			return err
		}
		item.Recipe, err = acct.open(sealed, "outbox", "sealed_recipe", outboxRow(device, &item)...)
		all = append(all, item)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read outbox: %w", err)
	}
	return all, nil
}
