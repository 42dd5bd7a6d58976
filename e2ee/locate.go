package e2ee

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
)

// maxLocated bounds the rooms that are searched for the users of warnings.
const maxLocated = 200

// locateWarnings finds the encrypted rooms shared with the users that warnings are about,
// and chooses one for warnings about the user's own side. Unknown members are fetched: the
// next message to the room needs them anyway.
func (d *Device) locateWarnings(ctx context.Context) error {
	wanted, own, err := d.unlocated(ctx)
	if err != nil || (len(wanted) == 0 && !own) {
		return err
	}
	d.core.Mu.Lock()
	synced := d.core.Record.Row.SyncPosition != ""
	d.core.Mu.Unlock()
	if !synced {
		return nil // the device does not know its rooms yet
	}
	rooms, err := d.joinedEncrypted(ctx)
	if err != nil {
		return err
	}
	for _, roomID := range rooms[:min(len(rooms), maxLocated)] {
		if len(wanted) == 0 {
			break
		}
		members, err := d.listMembers(ctx, roomID, false)
		if code := wire.Status(err); code == http.StatusForbidden || code == http.StatusNotFound || errors.Is(err, errOutdatedList) {
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
	d.acct.setPlaces(wanted, rooms)
	for _, other := range d.acct.proxied() {
		other.core.Mu.Lock()
		other.clientState.wakeWaiting()
		other.core.Mu.Unlock()
	}
	return nil
}

// unlocated returns the users of warnings whose rooms are not known, and whether a warning
// about the user's own side has no room.
func (d *Device) unlocated(ctx context.Context) (wanted map[id.UserID][]id.RoomID, own bool, err error) {
	rows, known, err := d.acct.pendingWarnings(ctx)
	if err != nil {
		return nil, false, err
	}
	d.acct.mu.Lock()
	chosen := d.acct.noticeRoom != ""
	d.acct.mu.Unlock()
	wanted = make(map[id.UserID][]id.RoomID)
	for i := range rows {
		user := rows[i].UserID
		switch {
		case user == d.acct.User || user == "":
			own = own || !chosen
		case known[user] == nil:
			wanted[user] = []id.RoomID{}
		}
	}
	return wanted, own, nil
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
	facts, err := d.eng.encrypted.lookUp(ctx, joined.Rooms...)
	if err != nil {
		return nil, err
	}
	rooms := slices.DeleteFunc(joined.Rooms, func(r id.RoomID) bool {
		return known[r].Algorithm == "" && facts[r].Algorithm == ""
	})
	d.core.Mu.Lock()
	defer d.core.Mu.Unlock()
	used := func(r id.RoomID) time.Time {
		if out := d.megolmState.outbound[r]; out != nil {
			return out.row.CreatedAt
		}
		return time.Time{}
	}
	since := func(r id.RoomID) time.Time { return known[r].EncryptedSince }
	slices.SortStableFunc(rooms, func(a, b id.RoomID) int {
		if c := used(b).Compare(used(a)); c != 0 {
			return c
		}
		return since(b).Compare(since(a))
	})
	return rooms, nil
}

// setPlaces replaces the rooms shared with users; users without warnings drop out. The
// first of the user's own rooms becomes the notice room.
func (a *account) setPlaces(found map[id.UserID][]id.RoomID, rooms []id.RoomID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := make(map[id.UserID][]id.RoomID, len(found))
	for _, w := range pending(a.warned) {
		if rooms, ok := a.shared[w.UserID]; ok {
			next[w.UserID] = rooms
		}
	}
	for user, rooms := range found {
		slices.Sort(rooms)
		next[user] = rooms
	}
	a.shared = next
	if a.noticeRoom == "" && len(rooms) > 0 {
		a.noticeRoom = rooms[0]
	}
}

// forgetPlaces forgets where warnings are shown when somebody whom they are about, or the
// user, enters or leaves a room. It reports whether there was anything to forget.
func (a *account) forgetPlaces(room id.RoomID, user id.UserID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if user == a.User {
		if room == a.noticeRoom {
			a.noticeRoom = ""
		}
		was := len(a.shared) > 0
		a.shared = nil
		return was
	}
	if _, known := a.shared[user]; !known {
		return false
	}
	a.shared = maps.Clone(a.shared) // the old map may be in use
	delete(a.shared, user)
	return true
}
