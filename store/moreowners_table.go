package store

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
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
	putMoreOwners    = sqlio.ReplaceRows("more_owners", sqlio.OfDevice, []string{"room_id", "session_id", "user_id"}, []string{"sealed_owners"})
	selectMoreOwners = &sqlio.ListStatement{
		Head: `SELECT room_id, session_id, user_id, sealed_owners FROM more_owners
			WHERE account = $1 AND device = $2 AND (room_id, session_id, user_id) IN (VALUES `,
		Item: "(CAST(? AS TEXT), CAST(? AS TEXT), CAST(? AS TEXT))", Tail: ")", Fixed: 2, Width: 3, Pad: true,
	}
)

// moreOwnersRow returns the identity of the row for sealing.
func moreOwnersRow(device int64, r OwnersRef) []string {
	return []string{strconv.FormatInt(device, 10), string(r.RoomID), string(r.SessionID), string(r.UserID)}
}

func (b *saver) moreOwners(all []MoreOwners) {
	p := &sqlio.Args{}
	for _, o := range lastByKey(all, func(o *MoreOwners) OwnersRef { return o.OwnersRef }) {
		p.ID(string(o.RoomID))
		p.ID(string(o.SessionID))
		p.ID(string(o.UserID))
		p.Bytes(b.acct.seal(o.Owners.Reveal(), "more_owners", "sealed_owners", moreOwnersRow(b.dev, o.OwnersRef)...))
	}
	b.listOfDevice("more owners of sessions", putMoreOwners, p)
}

// MoreOwners reads the owners of sessions beside those in the sessions' rows. Users without
// owners are not in the map.
func (db *DB) MoreOwners(ctx context.Context, acct *Account, device int64, want []OwnersRef) (map[OwnersRef]secret.Bytes, error) {
	all := make(map[OwnersRef]secret.Bytes)
	p := &sqlio.Args{}
	for _, w := range unique(want) {
		p.Text(string(w.RoomID))
		p.Text(string(w.SessionID))
		p.Text(string(w.UserID))
	}
	err := db.list(ctx, selectMoreOwners, []any{acct.ID, device}, p, func(r *sql.Rows) error {
		var ref OwnersRef
		var sealed []byte
		if err := r.Scan(sqlio.TextInto(&ref.RoomID), sqlio.TextInto(&ref.SessionID), sqlio.TextInto(&ref.UserID), &sealed); err != nil {
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
