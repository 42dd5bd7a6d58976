package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

// EncryptedRoom is a room into which nothing is sent in clear. It is stored for the whole
// database and for ever, whatever happens to the device that learned of it.
type EncryptedRoom struct {
	RoomID id.RoomID
	// Algorithm is that of the room's first m.room.encryption event. It never changes
	// (requirement 0.8). Empty: no such event has been seen, but clear text is refused all the
	// same; the first event that is seen sets it.
	Algorithm string
	Since     time.Time
}

var (
	putEncryptedRooms = sqlio.InsertRows("encrypted_rooms", nil, []string{"room"}, []string{"algorithm", "since"},
		`UPDATE SET algorithm = excluded.algorithm, since = excluded.since WHERE encrypted_rooms.algorithm = ''`)
	selectEncryptedRooms = &sqlio.ListStatement{
		Head: "SELECT room, algorithm, since FROM encrypted_rooms WHERE room IN (", Item: "?", Tail: ")", Width: 1, Pad: true,
	}
)

const selectRoomsOfDevices = "SELECT room_id, algorithm, encrypted_since FROM rooms WHERE algorithm <> ''"

var errDamagedHash = errors.New("hash is damaged")

// hashRoom returns the keyed hash under which a room is stored.
func (db *DB) hashRoom(room id.RoomID) [32]byte { return db.Hash("encrypted room", []byte(room)) }

// encryptedRoomArgs makes rows, sorted by their keys, so that two transactions that write
// the same rooms cannot deadlock.
func (db *DB) encryptedRoomArgs(all []EncryptedRoom) *sqlio.Args {
	type row struct {
		key [32]byte
		EncryptedRoom
	}
	rows := make([]row, 0, len(all))
	for _, r := range lastByKey(all, func(r *EncryptedRoom) id.RoomID { return r.RoomID }) {
		rows = append(rows, row{db.hashRoom(r.RoomID), r})
	}
	slices.SortFunc(rows, func(a, b row) int { return bytes.Compare(a.key[:], b.key[:]) })
	p := &sqlio.Args{}
	for i := range rows {
		db.rooms.add(rows[i].key)
		p.Bytes(rows[i].key[:])
		p.Text(rows[i].Algorithm)
		p.Time(rows[i].Since)
	}
	return p
}

// encryptedRooms stores the encryption of rooms for the whole database, in the same
// transaction as their rows.
func (b *saver) encryptedRooms(all []Room) {
	var encrypted []EncryptedRoom
	for i := range all {
		if all[i].Algorithm != "" {
			encrypted = append(encrypted, EncryptedRoom{all[i].RoomID, all[i].Algorithm, all[i].EncryptedSince})
		}
	}
	if len(encrypted) > 0 {
		b.list("encrypted rooms", putEncryptedRooms, nil, b.db.encryptedRoomArgs(encrypted))
	}
}

// NoteEncryptedRoom stores a room that no device of this database may know of. An existing
// row stays.
func (db *DB) NoteEncryptedRoom(ctx context.Context, room EncryptedRoom) error {
	if err := db.noteEncryptedRooms(ctx, db.writer.run, []EncryptedRoom{room}); err != nil {
		return fmt.Errorf("note an encrypted room: %w", err)
	}
	return nil
}

// runner runs a transaction, or continues one.
type runner func(context.Context, func(context.Context, *sqlio.Tx) error) error

func (db *DB) noteEncryptedRooms(ctx context.Context, run runner, all []EncryptedRoom) error {
	p := db.encryptedRoomArgs(all)
	if p.Err != nil {
		return p.Err
	}
	return run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		return t.RunList(ctx, putEncryptedRooms, nil, p.Vals)
	})
}

// EncryptedRooms returns which of the rooms are encrypted. The others are not in the map.
func (db *DB) EncryptedRooms(ctx context.Context, want []id.RoomID) (map[id.RoomID]EncryptedRoom, error) {
	p := &sqlio.Args{}
	names := make(map[[32]byte]id.RoomID, len(want))
	for _, room := range unique(want) {
		key := db.hashRoom(room)
		if db.rooms.lacks(key) {
			continue
		}
		names[key] = room
		p.Bytes(key[:])
	}
	all := make(map[id.RoomID]EncryptedRoom)
	if len(names) == 0 {
		return all, db.Lease()
	}
	err := db.list(ctx, selectEncryptedRooms, nil, p, func(rows *sql.Rows) error {
		var key []byte
		var r EncryptedRoom
		if err := rows.Scan(&key, sqlio.TextInto(&r.Algorithm), sqlio.TimeInto(&r.Since)); err != nil {
			return err
		}
		if len(key) != 32 {
			return errDamagedHash
		}
		r.RoomID = names[[32]byte(key)]
		all[r.RoomID] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read encrypted rooms: %w", err)
	}
	return all, nil
}

// collectEncryptedRooms makes what every device knew for itself known to all. It is the
// part of a migration for which the keys are needed.
func (db *DB) collectEncryptedRooms(ctx context.Context, t *sqlio.Tx) error {
	known := make(map[id.RoomID]EncryptedRoom)
	err := t.Rows(ctx, selectRoomsOfDevices, nil, func(rows *sql.Rows) error {
		var r EncryptedRoom
		if err := rows.Scan(sqlio.TextInto(&r.RoomID), sqlio.TextInto(&r.Algorithm), sqlio.TimeInto(&r.Since)); err != nil {
			return err
		}
		if before, ok := known[r.RoomID]; !ok || r.Since.Before(before.Since) {
			known[r.RoomID] = r
		}
		return nil
	})
	if err != nil {
		return err
	}
	all := make([]EncryptedRoom, 0, len(known))
	for _, r := range known {
		all = append(all, r)
	}
	inside := func(ctx context.Context, do func(context.Context, *sqlio.Tx) error) error { return do(ctx, t) }
	return db.noteEncryptedRooms(ctx, inside, all)
}
