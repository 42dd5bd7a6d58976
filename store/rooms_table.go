package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

const roomColumns = "room_id, algorithm, rotation_period, rotation_messages, history_visibility, encrypted_since"

// Once encrypted, always encrypted (requirement 20.3): an empty algorithm keeps the stored
// one, and the time since which it holds stays.
var (
	putRooms = sqlio.InsertRows("rooms", sqlio.OfDevice, []string{"room_id"},
		[]string{"algorithm", "rotation_period", "rotation_messages", "history_visibility", "encrypted_since"},
		`UPDATE SET algorithm = CASE WHEN excluded.algorithm = '' THEN rooms.algorithm ELSE excluded.algorithm END,
			rotation_period = excluded.rotation_period, rotation_messages = excluded.rotation_messages,
			history_visibility = excluded.history_visibility,
			encrypted_since = CASE WHEN rooms.encrypted_since = 0 THEN excluded.encrypted_since ELSE rooms.encrypted_since END`)
	selectRooms = sqlio.WhereIn("SELECT "+roomColumns+" FROM rooms", sqlio.OfDevice, "room_id", "")
)

const selectAllRooms = "SELECT " + roomColumns + " FROM rooms WHERE account = $1 AND device = $2"

func (b *saver) rooms(all []Room) {
	p := &sqlio.Args{}
	for _, r := range lastByKey(all, func(r *Room) id.RoomID { return r.RoomID }) {
		p.ID(string(r.RoomID))
		p.Text(r.Algorithm)
		p.Num(int64(r.RotationPeriod))
		p.Num(r.RotationMessages)
		p.Text(r.HistoryVisibility)
		p.Time(r.EncryptedSince)
	}
	b.listOfDevice("rooms", putRooms, p)
}

// Rooms reads what is known of rooms; nil means all. Unknown rooms are not in the map.
func (db *DB) Rooms(ctx context.Context, acct *Account, device int64, want []id.RoomID) (map[id.RoomID]Room, error) {
	all := make(map[id.RoomID]Room, len(want))
	each := func(rows *sql.Rows) error {
		var r Room
		var period int64
		err := rows.Scan(sqlio.TextInto(&r.RoomID), sqlio.TextInto(&r.Algorithm), &period, &r.RotationMessages,
			sqlio.TextInto(&r.HistoryVisibility), sqlio.TimeInto(&r.EncryptedSince))
		r.RotationPeriod = time.Duration(period)
		all[r.RoomID] = r
		return err
	}
	var err error
	if want == nil {
		err = db.reader.Query(ctx, selectAllRooms, []any{acct.ID, device}, each)
	} else {
		err = db.list(ctx, selectRooms, []any{acct.ID, device}, idArgs(unique(want)), each)
	}
	if err != nil {
		return nil, fmt.Errorf("read rooms: %w", err)
	}
	return all, nil
}
