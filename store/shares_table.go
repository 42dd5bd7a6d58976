package store

import (
	"context"
	"database/sql"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

var putShares = sqlio.ReplaceRows("shares", sqlio.OfDevice, []string{"session_id", "user_id", "device_id"},
	[]string{"curve25519", "idx", "withheld"})

const (
	selectShares = `SELECT session_id, user_id, device_id, curve25519, idx, withheld FROM shares
		WHERE account = $1 AND device = $2 AND session_id = $3 ORDER BY user_id, device_id`
	// The whole table is scanned by a reader, for which nobody waits.
	selectStale = `SELECT DISTINCT account, device, session_id FROM shares WHERE NOT EXISTS ` + currentSession + ` LIMIT 100`
	pruneShares = `DELETE FROM shares WHERE account = $1 AND device = $2 AND session_id = $3 AND NOT EXISTS ` + currentSession

	currentSession = `(SELECT 1 FROM outbound_sessions o
		WHERE o.account = shares.account AND o.device = shares.device AND o.session_id = shares.session_id)`
)

func (b *saver) shares(all []Share) {
	type key struct {
		session id.SessionID
		user    id.UserID
		device  id.DeviceID
	}
	all = lastByKey(all, func(s *Share) key { return key{s.SessionID, s.UserID, s.DeviceID} })
	p := &sqlio.Args{Vals: make([]any, 0, len(all)*putShares.Width)}
	for _, s := range all {
		p.ID(string(s.SessionID))
		p.ID(string(s.UserID))
		p.ID(string(s.DeviceID))
		p.Text(s.Curve25519)
		p.Num(int64(s.Index))
		p.Text(s.Withheld)
	}
	b.listOfDevice("shares", putShares, p)
}

// Shares reads which devices got a session key or an m.room_key.withheld, by user and
// device.
func (db *DB) Shares(ctx context.Context, acct *Account, device int64, session id.SessionID) ([]Share, error) {
	var all []Share
	err := db.reader.Query(ctx, selectShares, []any{acct.ID, device, sqlio.EncodeText(string(session))}, func(r *sql.Rows) error {
		var s Share
		err := r.Scan(sqlio.TextInto(&s.SessionID), sqlio.TextInto(&s.UserID), sqlio.TextInto(&s.DeviceID), sqlio.TextInto(&s.Curve25519), &s.Index, sqlio.TextInto(&s.Withheld))
		all = append(all, s)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read shares: %w", err)
	}
	return all, nil
}

// PruneShares deletes the shares of sessions that are no longer the session of a room, and
// returns how many rows that was.
func (db *DB) PruneShares(ctx context.Context) (int64, error) {
	var total int64
	for {
		var stale [][]any
		err := db.reader.Query(ctx, selectStale, nil, func(r *sql.Rows) error {
			var account, device int64
			var session string
			err := r.Scan(&account, &device, &session)
			stale = append(stale, []any{account, device, session})
			return err
		})
		if err != nil {
			return total, fmt.Errorf("look for old shares: %w", err)
		}
		for _, params := range stale {
			n, err := db.prune(ctx, "shares", pruneShares, params...)
			total += n
			if err != nil {
				return total, err
			}
		}
		if len(stale) == 0 {
			return total, nil
		}
	}
}
