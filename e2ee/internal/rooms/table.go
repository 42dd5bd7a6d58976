package rooms

import (
	"context"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// Table is what a device knows of its rooms.
type Table struct {
	*core.Device
	shared *Shared
	host   Host

	known map[id.RoomID]*room
}

// Host is what a Table tells the other parts of its device, with the device's lock held.
type Host interface {
	// DiscardOutbound stages that a room's key is not used for another message.
	DiscardOutbound(s *core.Step, room id.RoomID)
	// Departed stages what follows when a user left an encrypted room; member says that the
	// user was, or may have been, a member.
	Departed(s *core.Step, room id.RoomID, user id.UserID, member bool)
	// MemberMoved stages what else follows from a membership.
	MemberMoved(s *core.Step, room id.RoomID, user id.UserID)
}

// New returns what a device knows of its rooms: nothing yet.
func New(d *core.Device, shared *Shared, host Host) Table {
	return Table{Device: d, shared: shared, host: host, known: make(map[id.RoomID]*room)}
}

// room is what a device knows of a room. It is guarded by the device's lock.
type room struct {
	row        store.Room
	encrypted  bool   // row.Algorithm is set, from the store or the homeserver
	visibility string // empty: not known
	// members are all users with a membership other than leave; nil: not loaded.
	members map[id.UserID]string
	// loading is the fetch of the members in progress.
	loading *memberFetch
	// asked is what the organisation's rules asked of the room's state.
	asked ruleState
	// narrowed counts changes that may have removed recipients from the room.
	narrowed int
	// heard counts what was heard of the visibility: a read that began before counts no more.
	heard int
	// told is when a sync last told of a membership; recheck is when the members are to be fetched
	// again, unless it is zero.
	told, recheck time.Time
}

// roomState returns the room's entry, loaded on first use. The caller holds mu.
func (rt *Table) roomState(ctx context.Context, roomID id.RoomID) (*room, error) {
	if r := rt.known[roomID]; r != nil {
		return r, nil
	}
	if err := rt.readRooms(ctx, roomID); err != nil {
		return nil, err
	}
	return rt.known[roomID], nil
}

// Row returns what is stored of a room, with the limits of its sessions. The caller holds mu.
func (rt *Table) Row(ctx context.Context, roomID id.RoomID) (store.Room, error) {
	r, err := rt.roomState(ctx, roomID)
	if err != nil {
		return store.Room{}, err
	}
	return r.row, nil
}

// loadRooms loads the entries of rooms that are not in memory, with one query. The caller
// holds mu.
func (rt *Table) loadRooms(ctx context.Context, updates []Update) error {
	var missing []id.RoomID
	for _, u := range updates {
		if rt.known[u.RoomID] == nil && len(u.RoomID) <= wire.MaxIDLength {
			missing = append(missing, u.RoomID)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return rt.readRooms(ctx, missing...)
}

// readRooms adds the entries of rooms that are not in memory, from what is stored for the
// device, else for the database. The caller holds mu.
func (rt *Table) readRooms(ctx context.Context, rooms ...id.RoomID) error {
	rows, err := rt.Env.Store.Rooms(ctx, rt.Account.Row, rt.RowID, rooms)
	if err != nil {
		return fmt.Errorf("load rooms: %w", err)
	}
	var plain []id.RoomID
	for _, room := range rooms {
		if rows[room].Algorithm == "" {
			plain = append(plain, room)
		}
	}
	facts, err := rt.shared.LookUp(ctx, plain...)
	if err != nil {
		return err
	}
	for _, room := range rooms {
		row := rows[room]
		row.RoomID = room
		rt.known[room] = newRoom(row, facts[room])
	}
	return nil
}

// newRoom makes a room's entry of what is stored.
func newRoom(row store.Room, fact store.EncryptedRoom) *room {
	r := &room{row: row, encrypted: row.Algorithm != "", visibility: row.HistoryVisibility}
	r.adopt(fact)
	return r
}

// adopt applies what the database knows of a room. That is stored already, so it is no
// step. The rotation limits are the specification's until the current event sets others.
func (r *room) adopt(fact store.EncryptedRoom) {
	if r.encrypted || fact.Algorithm == "" {
		return
	}
	r.row.Algorithm, r.row.EncryptedSince = fact.Algorithm, fact.Since
	r.row.RotationPeriod, r.row.RotationMessages = defaultRotationPeriod, defaultRotationMessages
	r.encrypted = true
}

// KnownEncrypted reports whether the room is known to be encrypted, without any request.
func (rt *Table) KnownEncrypted(roomID id.RoomID) bool {
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	r := rt.known[roomID]
	return r != nil && r.encrypted || rt.shared.isCached(roomID)
}

// LoadRooms loads what is stored of rooms, with one query, for [Table.KnownEncrypted]. It
// returns of how many of them anything is known, from a sync or a request.
func (rt *Table) LoadRooms(ctx context.Context, rooms []id.RoomID) (heard int, err error) {
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	updates := make([]Update, 0, len(rooms))
	for _, room := range rooms {
		if rt.known[room] != nil {
			heard++
			continue
		}
		updates = append(updates, Update{RoomID: room})
	}
	if err := rt.loadRooms(ctx, updates); err != nil {
		return 0, err
	}
	for _, u := range updates {
		switch r := rt.known[u.RoomID]; {
		case r != nil && r.encrypted:
			heard++
		case r != nil:
			delete(rt.known, u.RoomID) // nothing is known yet
		}
	}
	return heard, nil
}
