package store

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"strconv"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

const inboundColumns = "room_id, session_id, sealed_pickle, sealed_owner, source, first_index, shared_history, received_at, backup_version"

var (
	putInbound = sqlio.ReplaceRows("inbound_sessions", sqlio.OfDevice, []string{"room_id", "session_id"},
		[]string{"sealed_pickle", "sealed_owner", "source", "first_index", "shared_history", "received_at", "backup_version"})
	selectInbound = sqlio.WherePair("SELECT "+inboundColumns+" FROM inbound_sessions", sqlio.OfDevice, "room_id, session_id")
	putOwners     = &sqlio.ListStatement{
		Head: "WITH owned (account, device, room_id, session_id, sealed_owner) AS (VALUES ",
		Item: "(CAST($1 AS {{int}}), CAST($2 AS {{int}}), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS {{blob}}))",
		Tail: `) UPDATE inbound_sessions SET sealed_owner = owned.sealed_owner FROM owned
			WHERE inbound_sessions.account = owned.account AND inbound_sessions.device = owned.device
			AND inbound_sessions.room_id = owned.room_id AND inbound_sessions.session_id = owned.session_id`,
		Fixed: 2, Width: 3, Pad: true,
	}
	markBacked = &sqlio.ListStatement{
		Head: "WITH stored (account, device, room_id, session_id, first_index, received_at, version) AS (VALUES ",
		Item: "(CAST($1 AS {{int}}), CAST($2 AS {{int}}), CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS {{int}}), CAST(? AS {{int}}), CAST(? AS TEXT))",
		Tail: `) UPDATE inbound_sessions SET backup_version = stored.version FROM stored
			WHERE inbound_sessions.account = stored.account AND inbound_sessions.device = stored.device
			AND inbound_sessions.room_id = stored.room_id AND inbound_sessions.session_id = stored.session_id
			AND inbound_sessions.first_index = stored.first_index AND inbound_sessions.received_at = stored.received_at`,
		Fixed: 2, Width: 5, Pad: true,
	}
)

// Two ranges, so that both databases can skip the sessions in the version by the index.
const (
	notBacked    = " WHERE account = $1 AND device = $2 AND (backup_version < $3 OR backup_version > $3)"
	selectToBack = "SELECT " + inboundColumns + " FROM inbound_sessions" + notBacked + " LIMIT $4"
	countToBack  = "SELECT COUNT(*) FROM inbound_sessions" + notBacked
	selectAfter  = "SELECT " + inboundColumns + ` FROM inbound_sessions
		WHERE account = $1 AND device = $2 AND (room_id, session_id) > ($3, $4) ORDER BY room_id, session_id LIMIT 500`
	selectAfterInRoom = "SELECT " + inboundColumns + ` FROM inbound_sessions
		WHERE account = $1 AND device = $2 AND room_id = $3 AND session_id > $4 ORDER BY session_id LIMIT 500`
)

// inboundRow returns the identity of the row for sealing.
func inboundRow(device int64, r SessionRef) []string {
	return []string{strconv.FormatInt(device, 10), string(r.RoomID), string(r.SessionID)}
}

// inboundPickleRow is like inboundRow and adds the columns that decide how far the session
// is trusted and with whom it may be shared: who can write to the database cannot turn an
// imported key into a direct one.
func inboundPickleRow(device int64, s *InboundSession) []string {
	return append(inboundRow(device, s.SessionRef), string(s.Source), strconv.FormatBool(s.SharedHistory))
}

func (b *saver) inboundSessions(all []InboundSession) {
	p := &sqlio.Args{}
	for _, s := range lastByKey(all, func(s *InboundSession) SessionRef { return s.SessionRef }) {
		p.ID(string(s.RoomID))
		p.ID(string(s.SessionID))
		p.Bytes(b.acct.seal(s.Pickle.Reveal(), "inbound_sessions", "sealed_pickle", inboundPickleRow(b.dev, &s)...))
		p.Bytes(b.acct.seal(s.Owner.Reveal(), "inbound_sessions", "sealed_owner", inboundRow(b.dev, s.SessionRef)...))
		p.Text(string(s.Source))
		p.Num(int64(s.FirstIndex))
		p.Flag(s.SharedHistory)
		p.Time(s.ReceivedAt)
		p.ID(s.BackupVersion)
	}
	b.listOfDevice("inbound sessions", putInbound, p)
}

// owners replaces the owners of sessions.
func (b *saver) owners(all []SessionOwner) {
	p := &sqlio.Args{}
	for _, o := range lastByKey(all, func(o *SessionOwner) SessionRef { return o.SessionRef }) {
		p.Text(string(o.RoomID))
		p.Text(string(o.SessionID))
		p.Bytes(b.acct.seal(o.Owner.Reveal(), "inbound_sessions", "sealed_owner", inboundRow(b.dev, o.SessionRef)...))
	}
	b.listOfDevice("owners of sessions", putOwners, p)
}

// markBackedUp marks sessions as uploaded, unless they came again meanwhile: with a better
// copy, or with another who says that the key is theirs.
func (b *saver) markBackedUp(all []BackedSession) {
	p := &sqlio.Args{}
	for _, s := range all {
		p.ID(string(s.RoomID))
		p.ID(string(s.SessionID))
		p.Num(int64(s.FirstIndex))
		p.Time(s.ReceivedAt)
		p.ID(s.Version)
	}
	b.listOfDevice("mark backed up sessions", markBacked, p)
}

func scanInbound(r *sql.Rows, acct *Account, device int64) (InboundSession, error) {
	var s InboundSession
	var pickle, owner []byte
	err := r.Scan(sqlio.TextInto(&s.RoomID), sqlio.TextInto(&s.SessionID), &pickle, &owner, sqlio.TextInto(&s.Source), &s.FirstIndex,
		sqlio.FlagInto(&s.SharedHistory), sqlio.TimeInto(&s.ReceivedAt), sqlio.TextInto(&s.BackupVersion))
	if err != nil {
		return s, err
	}
	s.Pickle, err = acct.open(pickle, "inbound_sessions", "sealed_pickle", inboundPickleRow(device, &s)...)
	if err != nil {
		return s, err
	}
	s.Owner, err = acct.open(owner, "inbound_sessions", "sealed_owner", inboundRow(device, s.SessionRef)...)
	return s, err
}

// InboundSessions reads the named sessions. Those that do not exist are not in the map.
func (db *DB) InboundSessions(ctx context.Context, acct *Account, device int64, want []SessionRef) (map[SessionRef]InboundSession, error) {
	all := make(map[SessionRef]InboundSession, len(want))
	err := db.list(ctx, selectInbound, []any{acct.ID, device}, refArgs(unique(want)), func(r *sql.Rows) error {
		s, err := scanInbound(r, acct, device)
		all[s.SessionRef] = s
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read inbound sessions: %w", err)
	}
	return all, nil
}

// ToBackUp reads up to limit sessions that are not in a version of the key backup.
func (db *DB) ToBackUp(ctx context.Context, acct *Account, device int64, version string, limit int) ([]InboundSession, error) {
	all, err := db.someInbound(ctx, acct, device, selectToBack, acct.ID, device, sqlio.EncodeText(version), int64(limit))
	if err != nil {
		return nil, fmt.Errorf("read sessions to back up: %w", err)
	}
	return all, nil
}

// CountToBackUp counts the sessions that are not in a version of the key backup.
func (db *DB) CountToBackUp(ctx context.Context, acct *Account, device int64, version string) (int, error) {
	var n int
	err := db.reader.Query(ctx, countToBack, []any{acct.ID, device, sqlio.EncodeText(version)},
		func(r *sql.Rows) error { return r.Scan(&n) })
	if err != nil {
		return 0, fmt.Errorf("count sessions to back up: %w", err)
	}
	return n, nil
}

// AllInboundSessions iterates over the sessions of a device, for a key export. Like
// [DB.OwnDevices] it reads in batches and stops at the first error.
func (db *DB) AllInboundSessions(ctx context.Context, acct *Account, device int64) iter.Seq2[InboundSession, error] {
	return pages(func(last InboundSession) ([]InboundSession, error) {
		return db.someInbound(ctx, acct, device, selectAfter,
			acct.ID, device, sqlio.EncodeText(string(last.RoomID)), sqlio.EncodeText(string(last.SessionID)))
	})
}

// InboundSessionsOfRoom is like [DB.AllInboundSessions], for one room.
func (db *DB) InboundSessionsOfRoom(ctx context.Context, acct *Account, device int64, room id.RoomID) iter.Seq2[InboundSession, error] {
	return pages(func(last InboundSession) ([]InboundSession, error) {
		return db.someInbound(ctx, acct, device, selectAfterInRoom,
			acct.ID, device, sqlio.EncodeText(string(room)), sqlio.EncodeText(string(last.SessionID)))
	})
}

// pages iterates over what next returns after each last item, until it returns nothing.
func pages(next func(InboundSession) ([]InboundSession, error)) iter.Seq2[InboundSession, error] {
	return func(yield func(InboundSession, error) bool) {
		var last InboundSession
		for {
			page, err := next(last)
			if err != nil {
				yield(InboundSession{}, fmt.Errorf("list inbound sessions: %w", err))
				return
			}
			for _, s := range page {
				if !yield(s, nil) {
					return
				}
				last = s
			}
			if len(page) == 0 {
				return
			}
		}
	}
}

func (db *DB) someInbound(ctx context.Context, acct *Account, device int64, query string, params ...any) ([]InboundSession, error) {
	var all []InboundSession
	err := db.reader.Query(ctx, query, params, func(r *sql.Rows) error {
		s, err := scanInbound(r, acct, device)
		all = append(all, s)
		return err
	})
	return all, err
}
