package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"e2ee-proxy/store/internal/sqlio"
)

var (
	putSeen    = sqlio.KeepRows("seen_messages", sqlio.OfDevice, []string{"digest"}, []string{"seen_at"})
	selectSeen = sqlio.WhereIn("SELECT digest FROM seen_messages", sqlio.OfDevice, "digest", "")
)

const pruneSeen = `DELETE FROM seen_messages WHERE (account, device, digest) IN
	(SELECT account, device, digest FROM seen_messages WHERE seen_at < $1 LIMIT 1000)`

func (b *saver) seen(all []SeenMessage) {
	p := &sqlio.Args{}
	for _, s := range all {
		p.Bytes(s.Digest[:])
		p.Time(s.At)
	}
	b.listOfDevice("seen messages", putSeen, p)
}

// Seen returns which of the digests belong to Olm messages that were processed before.
func (db *DB) Seen(ctx context.Context, acct *Account, device int64, digests [][32]byte) (map[[32]byte]bool, error) {
	all := make(map[[32]byte]bool)
	p := &sqlio.Args{}
	for _, d := range unique(digests) {
		p.Bytes(d[:])
	}
	err := db.list(ctx, selectSeen, []any{acct.ID, device}, p, func(r *sql.Rows) error {
		var d []byte
		if err := r.Scan(&d); err != nil {
			return err
		}
		if len(d) != 32 {
			return errors.New("digest is damaged")
		}
		all[[32]byte(d)] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read seen messages: %w", err)
	}
	return all, nil
}

// PruneSeen deletes messages seen before a time and returns how many.
func (db *DB) PruneSeen(ctx context.Context, before time.Time) (int64, error) {
	return db.prune(ctx, "seen messages", pruneSeen, sqlio.Micros(before))
}
