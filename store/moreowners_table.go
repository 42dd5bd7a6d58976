package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// OwnersRef names the owners of a session that belong to one user.
type OwnersRef struct {
	SessionRef
	UserID id.UserID
}

// MoreOwners are owners of an inbound session beside the one in its row: those of one user,
// as e2ee wrote them (JSON). Owners is sealed.
type MoreOwners struct {
	OwnersRef
	Owners secret.Bytes
}

var (
	putMoreOwners    = replaceRows("more_owners", ofDevice, []string{"room_id", "session_id", "user_id"}, []string{"sealed_owners"})
	selectMoreOwners = &listStatement{
		head: `SELECT room_id, session_id, user_id, sealed_owners FROM more_owners
			WHERE account = $1 AND device = $2 AND (room_id, session_id, user_id) IN (VALUES `,
		item: "(CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT))", tail: ")", fixed: 2, width: 3, pad: true,
	}
)

// moreOwnersRow returns the identity of the row for sealing.
func moreOwnersRow(device int64, r OwnersRef) []string {
	return []string{strconv.FormatInt(device, 10), string(r.RoomID), string(r.SessionID), string(r.UserID)}
}

func (b *saver) moreOwners(all []MoreOwners) {
	p := &args{}
	for _, o := range lastByKey(all, func(o *MoreOwners) OwnersRef { return o.OwnersRef }) {
		p.id(string(o.RoomID))
		p.id(string(o.SessionID))
		p.id(string(o.UserID))
		p.bytes(b.acct.seal(o.Owners.Reveal(), "more_owners", "sealed_owners", moreOwnersRow(b.dev, o.OwnersRef)...))
	}
	b.listOfDevice("more owners of sessions", putMoreOwners, p)
}

// MoreOwners reads the owners of sessions beside those in the sessions' rows. Users without
// owners are not in the map.
func (db *DB) MoreOwners(ctx context.Context, acct *Account, device int64, want []OwnersRef) (map[OwnersRef]secret.Bytes, error) {
	all := make(map[OwnersRef]secret.Bytes)
	p := &args{}
	for _, w := range unique(want) {
		p.text(string(w.RoomID))
		p.text(string(w.SessionID))
		p.text(string(w.UserID))
	}
	err := db.list(ctx, selectMoreOwners, []any{acct.ID, device}, p, func(r *sql.Rows) error {
		var ref OwnersRef
		var sealed []byte
		if err := r.Scan(text(&ref.RoomID), text(&ref.SessionID), text(&ref.UserID), &sealed); err != nil {
			return err
		}
		owners, err := acct.open(sealed, "more_owners", "sealed_owners", moreOwnersRow(device, ref)...)
		all[ref] = owners
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read more owners of sessions: %w", err)
	}
	return all, nil
}
