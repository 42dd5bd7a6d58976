package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

// A row moves forward only: the same session with more messages, or another session that is
// new. Discard, once set, stays for as long as the row has the same session: a send that
// began before the room's membership changed must not clear it.
var (
	putOutbound = sqlio.InsertRows("outbound_sessions", sqlio.OfDevice, []string{"room_id"},
		[]string{"session_id", "sealed_pickle", "created_at", "messages", "settings", "discard"},
		`UPDATE SET session_id = excluded.session_id, sealed_pickle = excluded.sealed_pickle,
			created_at = excluded.created_at, messages = excluded.messages, settings = excluded.settings,
			discard = CASE WHEN outbound_sessions.session_id = excluded.session_id AND outbound_sessions.discard = 1
				THEN 1 ELSE excluded.discard END
			WHERE CASE WHEN outbound_sessions.session_id = excluded.session_id
				THEN excluded.messages > outbound_sessions.messages
				ELSE excluded.messages <= 1 OR excluded.created_at > outbound_sessions.created_at END`)
	markDiscarded = sqlio.WhereIn("UPDATE outbound_sessions SET discard = 1", sqlio.OfDevice, "room_id", "")
)

const selectOutbound = `SELECT room_id, session_id, sealed_pickle, created_at, messages, settings, discard
	FROM outbound_sessions WHERE account = $1 AND device = $2 AND room_id = $3`

func outboundRow(device int64, s *OutboundSession) []string {
	return []string{strconv.FormatInt(device, 10), string(s.RoomID), string(s.SessionID)}
}

func (b *saver) outboundSessions(all []OutboundSession) {
	p := &sqlio.Args{}
	all = lastByKey(all, func(s *OutboundSession) id.RoomID { return s.RoomID })
	for _, s := range all {
		p.ID(string(s.RoomID))
		p.ID(string(s.SessionID))
		p.Bytes(b.acct.seal(s.Pickle.Reveal(), "outbound_sessions", "sealed_pickle", outboundRow(b.dev, &s)...))
		p.Time(s.CreatedAt)
		p.Num(int64(s.Messages))
		p.Bytes(s.Settings)
		p.Flag(s.Discard)
	}
	if len(all) == 0 {
		return
	}
	b.ratchet, b.ofDevice = true, true
	b.step("outbound sessions", p, func(ctx context.Context, t *sqlio.Tx) error {
		return t.MustList(ctx, ErrStale, putOutbound, []any{b.acct.ID, b.dev}, p.Vals)
	})
}

func (b *saver) discardOutbound(rooms []id.RoomID) {
	b.listOfDevice("discard outbound sessions", markDiscarded, idArgs(rooms))
}

// OutboundSession reads the session of a room, or returns [ErrNotFound].
func (db *DB) OutboundSession(ctx context.Context, acct *Account, device int64, room id.RoomID) (OutboundSession, error) {
	var s OutboundSession
	err := ErrNotFound
	failed := db.reader.Query(ctx, selectOutbound, []any{acct.ID, device, sqlio.EncodeText(string(room))}, func(r *sql.Rows) error {
		var sealed []byte
		err = r.Scan(sqlio.TextInto(&s.RoomID), sqlio.TextInto(&s.SessionID), &sealed, sqlio.TimeInto(&s.CreatedAt), &s.Messages,
			sqlio.JSONInto(&s.Settings), sqlio.FlagInto(&s.Discard))
		if err == nil {
			s.Pickle, err = acct.open(sealed, "outbound_sessions", "sealed_pickle", outboundRow(device, &s)...)
		}
		return err
	})
	if failed != nil {
		err = failed
	}
	if err != nil {
		return OutboundSession{}, fmt.Errorf("read outbound session: %w", err)
	}
	return s, nil
}
