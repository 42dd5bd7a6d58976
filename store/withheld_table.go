package store

import (
	"context"
	"database/sql"
	"fmt"

	"e2ee-proxy/store/internal/sqlio"
)

var (
	putWithheld    = sqlio.ReplaceRows("withheld", sqlio.OfDevice, []string{"room_id", "session_id"}, []string{"code", "reason"})
	dropWithheld   = sqlio.WherePair("DELETE FROM withheld", sqlio.OfDevice, "room_id, session_id")
	selectWithheld = sqlio.WherePair("SELECT room_id, session_id, code, reason FROM withheld", sqlio.OfDevice, "room_id, session_id")
)

func (b *saver) withheld(all []WithheldNote) {
	p := &sqlio.Args{}
	for _, n := range lastByKey(all, func(n *WithheldNote) SessionRef { return n.SessionRef }) {
		p.ID(string(n.RoomID))
		p.ID(string(n.SessionID))
		p.Text(n.Code)
		p.Bytes([]byte(n.Reason))
	}
	b.listOfDevice("withheld notes", putWithheld, p)
}

func (b *saver) deleteWithheld(sessions []SessionRef) {
	b.listOfDevice("delete withheld notes", dropWithheld, refArgs(sessions))
}

// Withheld reads the m.room_key.withheld received for the named sessions. Sessions without
// one are not in the map.
func (db *DB) Withheld(ctx context.Context, acct *Account, device int64, want []SessionRef) (map[SessionRef]WithheldNote, error) {
	all := make(map[SessionRef]WithheldNote)
	err := db.list(ctx, selectWithheld, []any{acct.ID, device}, refArgs(unique(want)), func(r *sql.Rows) error {
		var n WithheldNote
		var reason []byte
		err := r.Scan(sqlio.TextInto(&n.RoomID), sqlio.TextInto(&n.SessionID), sqlio.TextInto(&n.Code), &reason)
		n.Reason = string(reason)
		all[n.SessionRef] = n
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read withheld notes: %w", err)
	}
	return all, nil
}
