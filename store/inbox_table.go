package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"e2ee-proxy/store/internal/sqlio"
)

var (
	putInbox  = sqlio.ReplaceRows("inbox", sqlio.OfDevice, []string{"seq"}, []string{"sealed_event", "delivered_at"})
	dropInbox = sqlio.WhereIn("DELETE FROM inbox", sqlio.OfDevice, "seq", "")
	// The third parameter is the position.
	deliverInbox = &sqlio.ListStatement{
		Head: "UPDATE inbox SET delivered_at = $3 WHERE account = $1 AND device = $2 AND seq IN (",
		Item: "?", Tail: ")", Fixed: 3, Width: 1, Pad: true,
	}
)

const selectInbox = `SELECT seq, sealed_event, delivered_at FROM inbox
	WHERE account = $1 AND device = $2 ORDER BY seq LIMIT $3`

func inboxRow(device, seq int64) []string {
	return []string{strconv.FormatInt(device, 10), strconv.FormatInt(seq, 10)}
}

// inbox adds to-device events. They are numbered, so they have to be sealed within the
// transaction.
func (b *saver) inbox(all []InboxItem) {
	if len(all) == 0 {
		return
	}
	b.ofDevice = true
	b.step("inbox", &sqlio.Args{}, func(ctx context.Context, t *sqlio.Tx) error {
		seq, err := b.reserveNumbers(ctx, t, len(all))
		if err != nil {
			return err
		}
		p := &sqlio.Args{}
		for _, item := range all {
			seq++
			p.Num(seq)
			p.Bytes(b.acct.seal(item.Event.Reveal(), "inbox", "sealed_event", inboxRow(b.dev, seq)...))
			p.Text(item.DeliveredAt)
		}
		err = t.RunList(ctx, putInbox, []any{b.acct.ID, b.dev}, p.Vals)
		return err
	})
}

func (b *saver) deleteInbox(numbers []int64) {
	b.listOfDevice("delete from inbox", dropInbox, nums(numbers))
}

func (b *saver) markInbox(numbers []int64, position string) {
	if len(numbers) == 0 {
		return
	}
	b.ofDevice = true
	b.list("mark delivered to-device events", deliverInbox, []any{b.acct.ID, b.dev, sqlio.EncodeText(position)}, nums(numbers))
}

func nums(all []int64) *sqlio.Args {
	p := &sqlio.Args{}
	for _, n := range all {
		p.Num(n)
	}
	return p
}

// Inbox reads up to limit to-device events for the client, in the order in which they
// were saved, whether or not a response has carried them.
func (db *DB) Inbox(ctx context.Context, acct *Account, device int64, limit int) ([]InboxItem, error) {
	var all []InboxItem
	err := db.reader.Query(ctx, selectInbox, []any{acct.ID, device, int64(limit)}, func(r *sql.Rows) error {
		var item InboxItem
		var sealed []byte
		err := r.Scan(&item.Seq, &sealed, sqlio.TextInto(&item.DeliveredAt))
		if err == nil {
			item.Event, err = acct.open(sealed, "inbox", "sealed_event", inboxRow(device, item.Seq)...)
		}
		all = append(all, item)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read inbox: %w", err)
	}
	return all, nil
}
