package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

// The shares of one write are one row of share_lists, because there may be a thousand of them.
// Rows of shares are from before there were lists.

const (
	selectShares = `SELECT session_id, user_id, device_id, curve25519, idx, withheld FROM shares
		WHERE account = $1 AND device = $2 AND session_id = $3 ORDER BY user_id, device_id`
	selectShareLists = `SELECT shares FROM share_lists WHERE account = $1 AND device = $2 AND session_id = $3 ORDER BY number`
	putShareList     = `INSERT INTO share_lists (account, device, session_id, number, shares)
		SELECT $1, $2, $3, COALESCE(MAX(number), 0) + 1, $4 FROM share_lists WHERE account = $1 AND device = $2 AND session_id = $3`

	// The whole tables are scanned by a reader, for which nobody waits.
	selectStale      = `SELECT DISTINCT account, device, session_id FROM shares s WHERE NOT EXISTS ` + currentSession + ` LIMIT 100`
	selectStaleLists = `SELECT DISTINCT account, device, session_id FROM share_lists s WHERE NOT EXISTS ` + currentSession + ` LIMIT 100`
	pruneShares      = `DELETE FROM shares AS s WHERE account = $1 AND device = $2 AND session_id = $3 AND NOT EXISTS ` + currentSession
	pruneShareLists  = `DELETE FROM share_lists AS s WHERE account = $1 AND device = $2 AND session_id = $3 AND NOT EXISTS ` + currentSession

	currentSession = `(SELECT 1 FROM outbound_sessions o WHERE o.account = s.account AND o.device = s.device AND o.session_id = s.session_id)`
)

var errShareList = errors.New("a list of shares is damaged")

func (b *saver) shares(all []Share) {
	if len(all) == 0 {
		return
	}
	b.ofDevice = true
	lists := make(map[id.SessionID][]byte)
	var sessions []id.SessionID
	for i := range all {
		s := &all[i]
		if lists[s.SessionID] == nil {
			sessions = append(sessions, s.SessionID)
			lists[s.SessionID] = []byte{shareListFormat}
		}
		lists[s.SessionID] = s.append(lists[s.SessionID])
	}
	for _, session := range sessions {
		p := b.scope()
		p.ID(string(session))
		p.Bytes(lists[session])
		b.step("shares", p, func(ctx context.Context, t *sqlio.Tx) error { return t.Run(ctx, putShareList, p.Vals...) })
	}
}

const shareListFormat = 1

// append writes a share into a list.
func (s *Share) append(list []byte) []byte {
	for _, text := range []string{s.UserID.String(), s.DeviceID.String(), s.Curve25519, s.Withheld} {
		list = append(binary.AppendUvarint(list, uint64(len(text))), text...)
	}
	return binary.AppendUvarint(list, uint64(s.Index))
}

// readShareList reads what append has written for a session.
func readShareList(session id.SessionID, list []byte) (all []Share, err error) {
	if len(list) == 0 || list[0] != shareListFormat {
		return nil, errShareList
	}
	list = list[1:]
	number := func() uint64 {
		n, size := binary.Uvarint(list)
		if size <= 0 {
			err, list = errShareList, nil
			return 0
		}
		list = list[size:]
		return n
	}
	text := func() string {
		n := number()
		if n > uint64(len(list)) {
			err, list = errShareList, nil
			return ""
		}
		out := string(list[:n])
		list = list[n:]
		return out
	}
	for len(list) > 0 {
		s := Share{SessionID: session, UserID: id.UserID(text()), DeviceID: id.DeviceID(text()), Curve25519: text(), Withheld: text()}
		index := number()
		if err != nil || index > 1<<32-1 {
			return nil, errShareList
		}
		s.Index = uint32(index)
		all = append(all, s)
	}
	return all, nil
}

// Shares reads which devices got a session key or an m.room_key.withheld, by user and
// device.
func (db *DB) Shares(ctx context.Context, acct *Account, device int64, session id.SessionID) ([]Share, error) {
	var all []Share
	params := []any{acct.ID, device, sqlio.EncodeText(string(session))}
	err := db.reader.Query(ctx, selectShares, params, func(r *sql.Rows) error {
		var s Share
		err := r.Scan(sqlio.TextInto(&s.SessionID), sqlio.TextInto(&s.UserID), sqlio.TextInto(&s.DeviceID), sqlio.TextInto(&s.Curve25519), &s.Index, sqlio.TextInto(&s.Withheld))
		all = append(all, s)
		return err
	})
	if err == nil {
		err = db.reader.Query(ctx, selectShareLists, params, func(r *sql.Rows) error {
			var list []byte
			if err := r.Scan(&list); err != nil {
				return err
			}
			more, err := readShareList(session, list)
			all = append(all, more...)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read shares: %w", err)
	}
	all = lastByKey(all, func(s *Share) DeviceRef { return DeviceRef{s.UserID, s.DeviceID} })
	slices.SortFunc(all, func(a, b Share) int {
		if c := strings.Compare(a.UserID.String(), b.UserID.String()); c != 0 {
			return c
		}
		return strings.Compare(a.DeviceID.String(), b.DeviceID.String())
	})
	return all, nil
}

// PruneShares deletes the shares of sessions that are no longer the session of a room, and
// returns how many rows that was.
func (db *DB) PruneShares(ctx context.Context) (int64, error) {
	rows, err := db.pruneSharesOf(ctx, selectStale, pruneShares)
	if err != nil {
		return rows, err
	}
	lists, err := db.pruneSharesOf(ctx, selectStaleLists, pruneShareLists)
	return rows + lists, err
}

func (db *DB) pruneSharesOf(ctx context.Context, look, remove string) (int64, error) {
	var total int64
	for {
		var stale [][]any
		err := db.reader.Query(ctx, look, nil, func(r *sql.Rows) error {
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
			n, err := db.prune(ctx, "shares", remove, params...)
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
