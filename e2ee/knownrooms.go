package e2ee

import (
	"context"

	"maunium.net/go/mautrix/id"
)

// LoadRooms loads what is stored of rooms, with one query, for [Device.KnownEncrypted]. It
// returns of how many of them anything is known, from a sync or a request.
func (d *Device) LoadRooms(ctx context.Context, rooms []id.RoomID) (heard int, err error) {
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	updates := make([]RoomUpdate, 0, len(rooms))
	for _, room := range rooms {
		if d.roomTable.known[room] != nil {
			heard++
			continue
		}
		updates = append(updates, RoomUpdate{RoomID: room})
	}
	if err := d.roomTable.loadRooms(ctx, updates); err != nil {
		return 0, err
	}
	for _, u := range updates {
		switch r := d.roomTable.known[u.RoomID]; {
		case r != nil && r.encrypted:
			heard++
		case r != nil:
			delete(d.roomTable.known, u.RoomID) // nothing is known yet
		}
	}
	return heard, nil
}
