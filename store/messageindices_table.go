package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"

	"e2ee-proxy/store/internal/sqlio"
)

// Table message_indices grows by a row for every message that is decrypted, so it names the
// session by a short keyed hash.

var (
	putIndices    = sqlio.KeepRows("message_indices", sqlio.OfDevice, []string{"session", "idx"}, []string{"event_id", "event_time"})
	selectIndices = &sqlio.ListStatement{
		Head: `SELECT session, idx, event_id, event_time FROM message_indices
			WHERE account = $1 AND device = $2 AND (session, idx) IN (VALUES `,
		Item: "(CAST(? AS {{blob}}), CAST(? AS {{int}}))", Tail: ")", Fixed: 2, Width: 2, Pad: true,
	}
)

// selectLast reads one row for each session, however many messages it has.
var selectLast = &sqlio.ListStatement{
	Head: `SELECT wanted.column1, (SELECT MAX(idx) FROM message_indices
			WHERE account = $1 AND device = $2 AND session = wanted.column1) FROM (VALUES `,
	Item: "(CAST(? AS {{blob}}))", Tail: ") AS wanted", Fixed: 2, Width: 1, Pad: true,
}

type sessionHash [16]byte

func (db *DB) hashSession(r SessionRef) sessionHash {
	b := binary.AppendUvarint(make([]byte, 0, 128), uint64(len(r.RoomID)))
	b = append(append(b, r.RoomID...), r.SessionID...)
	sum := db.Hash("message index", b)
	return sessionHash(sum[:])
}

// sessionHashes caches the hashes of session names.
type sessionHashes struct {
	db   *DB
	made map[SessionRef]sessionHash
}

func (db *DB) sessionHashes() sessionHashes {
	return sessionHashes{db, make(map[SessionRef]sessionHash)}
}

func (s sessionHashes) of(r SessionRef) sessionHash {
	h, ok := s.made[r]
	if !ok {
		h = s.db.hashSession(r)
		s.made[r] = h
	}
	return h
}

func (b *saver) messageIndices(all []MessageIndex) {
	p := &sqlio.Args{Vals: make([]any, 0, len(all)*putIndices.Width)}
	hashes := b.db.sessionHashes()
	for _, m := range all {
		h := hashes.of(m.SessionRef)
		p.Bytes(h[:])
		p.Num(int64(m.Index))
		p.Text(string(m.EventID))
		p.Num(m.Timestamp)
	}
	b.listOfDevice("message indices", putIndices, p)
}

// MessageIndices reads which events used the named indices. Indices that were not used
// are not in the map.
func (db *DB) MessageIndices(ctx context.Context, acct *Account, device int64, want []IndexRef) (map[IndexRef]MessageIndex, error) {
	all := make(map[IndexRef]MessageIndex, len(want))
	names, hashes := make(map[sessionHash]SessionRef), db.sessionHashes()
	p := &sqlio.Args{}
	for _, w := range unique(want) {
		h := hashes.of(w.SessionRef)
		names[h] = w.SessionRef
		p.Bytes(h[:])
		p.Num(int64(w.Index))
	}
	err := db.list(ctx, selectIndices, []any{acct.ID, device}, p, func(r *sql.Rows) error {
		var h []byte
		var m MessageIndex
		if err := r.Scan(&h, &m.Index, sqlio.TextInto(&m.EventID), &m.Timestamp); err != nil {
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

// LastIndices reads the highest index that was used of each of the named sessions.
// Sessions of which none was used are not in the map.
func (db *DB) LastIndices(ctx context.Context, acct *Account, device int64, want []SessionRef) (map[SessionRef]uint32, error) {
	all := make(map[SessionRef]uint32, len(want))
	names := make(map[sessionHash]SessionRef)
	p := &sqlio.Args{}
	for _, w := range unique(want) {
		h := db.hashSession(w)
		names[h] = w
		p.Bytes(h[:])
	}
	err := db.list(ctx, selectLast, []any{acct.ID, device}, p, func(r *sql.Rows) error {
		var h []byte
		var last sql.Null[uint32]
		if err := r.Scan(&h, &last); err != nil {
			return err
		}
		if len(h) != len(sessionHash{}) {
			return fmt.Errorf("session hash is damaged")
		}
		if last.Valid {
			all[names[sessionHash(h)]] = last.V
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the last message indices: %w", err)
	}
	return all, nil
}
