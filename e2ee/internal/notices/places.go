package notices

import (
	"context"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"
)

// placed returns the pending warnings with the rooms that show them, as far as known.
func (a *Account) placed(ctx context.Context) ([]Warning, error) {
	if a.Settings().NoNotices {
		return nil, nil
	}
	all, err := a.Pending(ctx)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	a.mu.Lock()
	own := a.noticeRoom
	a.mu.Unlock()
	for i := range all {
		w := &all[i]
		if own != "" && (w.UserID == "" || w.UserID == a.User) {
			w.RoomIDs = []id.RoomID{own}
		}
		w.RoomIDs = w.RoomIDs[:min(len(w.RoomIDs), maxNoticeRooms)]
	}
	return all, nil
}

// noticeOf returns the pending warning of a notice; nil when there is none.
func (a *Account) noticeOf(ctx context.Context, room id.RoomID, event id.EventID) (*Warning, error) {
	warnings, err := a.placed(ctx)
	if err != nil {
		return nil, err
	}
	for i := range warnings {
		if slices.Contains(warnings[i].RoomIDs, room) && noticeID(warnings[i].ID, room) == event {
			return &warnings[i], nil
		}
	}
	return nil, nil
}

// Unlocated returns the users of warnings whose rooms are not known, and whether a warning
// about the user's own side has no room.
func (a *Account) Unlocated(ctx context.Context) (wanted map[id.UserID][]id.RoomID, own bool, err error) {
	rows, known, err := a.pending(ctx)
	if err != nil {
		return nil, false, err
	}
	a.mu.Lock()
	chosen := a.noticeRoom != ""
	a.mu.Unlock()
	wanted = make(map[id.UserID][]id.RoomID)
	for i := range rows {
		user := rows[i].UserID
		switch {
		case user == a.User || user == "":
			own = own || !chosen
		case known[user] == nil:
			wanted[user] = []id.RoomID{}
		}
	}
	return wanted, own, nil
}

// SetPlaces replaces the rooms shared with users; users without warnings drop out. The
// first of the user's own rooms becomes the notice room.
func (a *Account) SetPlaces(found map[id.UserID][]id.RoomID, rooms []id.RoomID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := make(map[id.UserID][]id.RoomID, len(found))
	for _, w := range pending(a.rows) {
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

// ForgetPlaces forgets where warnings are shown when somebody whom they are about, or the
// user, enters or leaves a room. It reports whether there was anything to forget.
func (a *Account) ForgetPlaces(room id.RoomID, user id.UserID) bool {
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
