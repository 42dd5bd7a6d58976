package e2ee

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/rooms"
	"e2ee-proxy/e2ee/internal/wire"
)

// maxLocated bounds the rooms that are searched for the users of warnings.
const maxLocated = 200

// locateWarnings finds the encrypted rooms shared with the users that warnings are about,
// and chooses one for warnings about the user's own side. Unknown members are fetched: the
// next message to the room needs them anyway.
func (d *Device) locateWarnings(ctx context.Context) error {
	wanted, own, err := d.acct.warnings.Unlocated(ctx)
	if err != nil || (len(wanted) == 0 && !own) {
		return err
	}
	d.core.Mu.Lock()
	synced := d.core.Record.Row.SyncPosition != ""
	d.core.Mu.Unlock()
	if !synced {
		return nil // the device does not know its rooms yet
	}
	encrypted, err := d.joinedEncrypted(ctx)
	if err != nil {
		return err
	}
	for _, roomID := range encrypted[:min(len(encrypted), maxLocated)] {
		if len(wanted) == 0 {
			break
		}
		members, err := d.rooms.ListMembers(ctx, roomID, false)
		if code := wire.Status(err); code == http.StatusForbidden || code == http.StatusNotFound || errors.Is(err, rooms.ErrOutdatedList) {
			continue // not in that room
		}
		if err != nil {
			return err
		}
		for user := range wanted {
			if m := members[user]; m == "join" || m == "invite" {
				wanted[user] = append(wanted[user], roomID)
			}
		}
	}
	d.acct.warnings.SetPlaces(wanted, encrypted)
	for _, other := range d.acct.proxied() {
		other.core.Mu.Lock()
		other.clientState.wakeWaiting()
		other.core.Mu.Unlock()
	}
	return nil
}

// joinedEncrypted returns the encrypted rooms that the user has joined, first the one that
// this device wrote in last.
func (d *Device) joinedEncrypted(ctx context.Context) ([]id.RoomID, error) {
	known, err := d.core.Env.Store.Rooms(ctx, d.acct.Row, d.core.RowID, nil)
	if err != nil {
		return nil, fmt.Errorf("load rooms: %w", err)
	}
	var joined struct {
		Rooms []id.RoomID `json:"joined_rooms"`
	}
	err = d.core.Call(ctx, wire.Request{
		Op: "read the joined rooms", Method: http.MethodGet,
		Path: mautrix.ClientURLPath{"v3", "joined_rooms"}, Result: &joined, Large: true,
	})
	if err != nil {
		return nil, err
	}
	// What other devices have learned of rooms holds for this one, too.
	facts, err := d.eng.rooms.LookUp(ctx, joined.Rooms...)
	if err != nil {
		return nil, err
	}
	rooms := slices.DeleteFunc(joined.Rooms, func(r id.RoomID) bool {
		return known[r].Algorithm == "" && facts[r].Algorithm == ""
	})
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	since := func(r id.RoomID) time.Time { return known[r].EncryptedSince }
	slices.SortStableFunc(rooms, func(a, b id.RoomID) int {
		if c := d.outbound.BegunAt(b).Compare(d.outbound.BegunAt(a)); c != 0 {
			return c
		}
		return since(b).Compare(since(a))
	})
	return rooms, nil
}
