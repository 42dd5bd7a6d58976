package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

// Columns that never change during a session are not written again, which saves updating
// the index.
var (
	putOlmSessions = sqlio.InsertRows("olm_sessions", sqlio.OfDevice, []string{"session_id"},
		[]string{"their_key", "sealed_pickle", "created_at", "last_received_at"},
		`UPDATE SET sealed_pickle = excluded.sealed_pickle, last_received_at = excluded.last_received_at
			WHERE olm_sessions.their_key = excluded.their_key`)
	dropOlmSessions   = sqlio.WhereIn("DELETE FROM olm_sessions", sqlio.OfDevice, "session_id", "")
	selectOlmSessions = sqlio.WhereIn("SELECT session_id, their_key, sealed_pickle, created_at, last_received_at FROM olm_sessions",
		sqlio.OfDevice, "their_key", " ORDER BY last_received_at DESC, created_at DESC, session_id")
)

// olmRow returns the identity of the row for sealing, which ties the session to the other
// device's key.
func olmRow(device int64, s *OlmSession) []string {
	return []string{strconv.FormatInt(device, 10), s.SessionID, s.TheirKey}
}

var errOlmSessionOfAnother = errors.New("a session with this ID belongs to another device")

// withMark begins what is sealed of a session of which it is kept with whom it is. A pickle begins with
// its version, of which this byte is never one.
const withMark = 0xFF

// withPickle returns what is sealed of a session.
func withPickle(s *OlmSession) []byte {
	if s.With == "" {
		return s.Pickle.Reveal()
	}
	out := append(make([]byte, 0, 2+len(s.With)+len(s.Pickle)), withMark, byte(len(s.With)))
	return append(append(out, s.With...), s.Pickle.Reveal()...)
}

// splitPickle is the opposite of withPickle.
func splitPickle(plain secret.Bytes) (with string, pickle secret.Bytes, err error) {
	raw := plain.Reveal()
	if len(raw) == 0 || raw[0] != withMark {
		return "", plain, nil
	}
	if len(raw) < 2 || len(raw) < 2+int(raw[1]) {
		return "", nil, fmt.Errorf("%w: an Olm session is damaged", ErrSealed)
	}
	at := 2 + int(raw[1])
	return string(raw[2:at]), plain[at:], nil
}

func (b *saver) olmSessions(all []OlmSession) {
	all = lastByKey(all, func(s *OlmSession) string { return s.SessionID })
	if len(all) == 0 {
		return
	}
	p := &sqlio.Args{}
	for _, s := range all {
		p.ID(s.SessionID)
		p.ID(s.TheirKey)
		p.Bytes(b.acct.seal(withPickle(&s), "olm_sessions", "sealed_pickle", olmRow(b.dev, &s)...))
		p.Time(s.CreatedAt)
		p.Time(s.LastReceivedAt)
	}
	b.ratchet, b.ofDevice = true, true
	b.step("Olm sessions", p, func(ctx context.Context, t *sqlio.Tx) error {
		return t.MustList(ctx, errOlmSessionOfAnother, putOlmSessions, []any{b.acct.ID, b.dev}, p.Vals)
	})
}

func (b *saver) deleteOlmSessions(sessionIDs []string) {
	b.listOfDevice("delete Olm sessions", dropOlmSessions, idArgs(sessionIDs))
}

// OlmSessions reads the sessions with devices, by their Curve25519 keys. A device's
// sessions are in the order in which to try them: the one that received last comes first,
// then the youngest. Keys without a session are not in the map.
func (db *DB) OlmSessions(ctx context.Context, acct *Account, device int64, theirKeys []string) (map[string][]OlmSession, error) {
	all := make(map[string][]OlmSession, len(theirKeys))
	err := db.list(ctx, selectOlmSessions, []any{acct.ID, device}, idArgs(unique(theirKeys)), func(r *sql.Rows) error {
		var s OlmSession
		var sealed []byte
		err := r.Scan(sqlio.TextInto(&s.SessionID), sqlio.TextInto(&s.TheirKey), &sealed, sqlio.TimeInto(&s.CreatedAt), sqlio.TimeInto(&s.LastReceivedAt))
		if err != nil {
			return err
		}
		plain, err := acct.open(sealed, "olm_sessions", "sealed_pickle", olmRow(device, &s)...)
		if err == nil {
			s.With, s.Pickle, err = splitPickle(plain)
		}
		all[s.TheirKey] = append(all[s.TheirKey], s)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read Olm sessions: %w", err)
	}
	return all, nil
}
