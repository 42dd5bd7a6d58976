package e2ee

import (
	"context"

	"maunium.net/go/mautrix/id"
)

// LoadRooms makes known what is stored of rooms, with one query, so that [Device.KnownEncrypted]
// can tell. heard is of how many of them a sync, or the homeserver when it was asked, has said
// anything: of the others nothing is known.
func (d *Device) LoadRooms(ctx context.Context, rooms []id.RoomID) (heard int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	updates := make([]RoomUpdate, 0, len(rooms))
	for _, room := range rooms {
		if d.roomTable.known[room] != nil {
			heard++
			continue
		}
		updates = append(updates, RoomUpdate{RoomID: room})
	}
	if err := d.loadRooms(ctx, updates); err != nil {
		return 0, err
	}
	for _, u := range updates {
		switch r := d.roomTable.known[u.RoomID]; {
		case r != nil && r.encrypted:
			heard++
		case r != nil:
			delete(d.roomTable.known, u.RoomID) // nobody has said anything yet
		}
	}
	return heard, nil
}
