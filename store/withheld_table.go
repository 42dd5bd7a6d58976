package store

import (
	"context"
	"database/sql"
	"fmt"
)

var (
	putWithheld    = replaceRows("withheld", ofDevice, []string{"room_id", "session_id"}, []string{"code", "reason"})
	dropWithheld   = wherePair("DELETE FROM withheld", ofDevice, "room_id, session_id")
	selectWithheld = wherePair("SELECT room_id, session_id, code, reason FROM withheld", ofDevice, "room_id, session_id")
)

func (b *saver) withheld(all []WithheldNote) {
	p := &args{}
	for _, n := range lastByKey(all, func(n *WithheldNote) SessionRef { return n.SessionRef }) {
		p.id(string(n.RoomID))
		p.id(string(n.SessionID))
		p.text(n.Code)
		p.bytes([]byte(n.Reason))
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
		err := r.Scan(text(&n.RoomID), text(&n.SessionID), text(&n.Code), &reason)
		n.Reason = string(reason)
		all[n.SessionRef] = n
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read withheld notes: %w", err)
	}
	return all, nil
}
