package store

import (
	"context"
	"database/sql"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

// Table unread has, by a keyed hash of the room, where the homeserver's numbers of unread
// messages are wrong, see package unread of the engine.

// UnreadRoom is what is known of the unread messages of a room.
type UnreadRoom struct {
	RoomID id.RoomID
	State  secret.Bytes // empty deletes the row
}

var (
	putUnread    = sqlio.ReplaceRows("unread", sqlio.OfAccount, []string{"room"}, []string{"sealed_state"})
	dropUnread   = sqlio.WhereIn("DELETE FROM unread", sqlio.OfAccount, "room", "")
	selectUnread = sqlio.WhereIn("SELECT room, sealed_state FROM unread", sqlio.OfAccount, "room", "")
)

// hashUnread returns the name of a room in the table: another for each account.
func (db *DB) hashUnread(acct *Account, room id.RoomID) [32]byte {
	return db.Hash("unread", []byte(string(acct.UserID)+"\x00"+string(room)))
}

func (b *saver) unread(all []UnreadRoom) {
	put, drop := &sqlio.Args{}, &sqlio.Args{}
	for _, r := range lastByKey(all, func(r *UnreadRoom) id.RoomID { return r.RoomID }) {
		h := b.db.hashUnread(b.acct, r.RoomID)
		if len(r.State) == 0 {
			drop.Bytes(h[:])
			continue
		}
		put.Bytes(h[:])
		put.Bytes(b.acct.seal(r.State.Reveal(), "unread", "sealed_state", string(r.RoomID)))
	}
	b.listOfAccount("delete unread messages", dropUnread, drop)
	b.listOfAccount("unread messages", putUnread, put)
}

// Unread reads what is known of the unread messages of rooms. Those of which nothing is are
// not in the map.
func (db *DB) Unread(ctx context.Context, acct *Account, rooms []id.RoomID) (map[id.RoomID]secret.Bytes, error) {
	p := &sqlio.Args{}
	names := make(map[[32]byte]id.RoomID, len(rooms))
	for _, room := range unique(rooms) {
		h := db.hashUnread(acct, room)
		names[h] = room
		p.Bytes(h[:])
	}
	all := make(map[id.RoomID]secret.Bytes)
	err := db.list(ctx, selectUnread, []any{acct.ID}, p, func(r *sql.Rows) error {
		var hash, sealed []byte
		if err := r.Scan(&hash, &sealed); err != nil {
			return err
		}
		if len(hash) != 32 {
			return errDamagedHash
		}
		room := names[[32]byte(hash)]
		state, err := acct.open(sealed, "unread", "sealed_state", string(room))
		all[room] = state
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read unread messages: %w", err)
	}
	return all, nil
}
