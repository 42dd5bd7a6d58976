package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
)

// Table message_indices grows by a row for every message that is decrypted, so the
// session is a short keyed hash of its name.

var (
	putIndices    = keepRows("message_indices", ofDevice, []string{"session", "idx"}, []string{"event_id", "event_time"})
	selectIndices = &listed{
		head: `SELECT session, idx, event_id, event_time FROM message_indices
			WHERE account = $1 AND device = $2 AND (session, idx) IN (VALUES `,
		item: "(CAST(? AS {{blob}}), CAST(? AS {{int}}))", tail: ")", fixed: 2, width: 2, pad: true,
	}
)

type sessionHash [16]byte

func (db *DB) hashSession(r SessionRef) sessionHash {
	b := binary.AppendUvarint(make([]byte, 0, 128), uint64(len(r.RoomID)))
	b = append(append(b, r.RoomID...), r.SessionID...)
	sum := db.Hash("message index", b)
	return sessionHash(sum[:])
}

func (b *batch) messageIndices(all []MessageIndex) {
	p := &args{}
	for _, m := range all {
		h := b.db.hashSession(m.SessionRef)
		p.bytes(h[:])
		p.num(int64(m.Index))
		p.text(string(m.EventID))
		p.num(m.Timestamp)
	}
	b.listOfDevice("message indices", putIndices, p)
}

// MessageIndices reads which events used the named indices. Indices that were not used
// are not in the map.
func (db *DB) MessageIndices(ctx context.Context, acct *Account, device int64, want []IndexRef) (map[IndexRef]MessageIndex, error) {
	all := make(map[IndexRef]MessageIndex, len(want))
	names := make(map[sessionHash]SessionRef)
	p := &args{}
	for _, w := range unique(want) {
		h := db.hashSession(w.SessionRef)
		names[h] = w.SessionRef
		p.bytes(h[:])
		p.num(int64(w.Index))
	}
	err := db.list(ctx, selectIndices, []any{acct.ID, device}, p, func(r *sql.Rows) error {
		var h []byte
		var m MessageIndex
		if err := r.Scan(&h, &m.Index, text(&m.EventID), &m.Timestamp); err != nil {
			return err
		}
		if len(h) != len(sessionHash{}) {
			return fmt.Errorf("session hash is damaged")
		}
		m.SessionRef = names[sessionHash(h)]
		all[m.IndexRef] = m
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read message indices: %w", err)
	}
	return all, nil
}
