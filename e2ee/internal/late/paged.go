package late

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

// Events of pages of history (Event.Page) wait like those of a sync, with these differences: a
// client can ask for a page again, so they make room for those of syncs; what waits already
// stays as it is; and they wait only in rooms that the user is in, because a sync that carries
// an event of a room says that the user is.

const (
	// maxOfPages is how many events may wait for one of a page to be added.
	maxOfPages = 2000
	// joinedWait is how long a page waits for the list of the user's rooms. Without it, its
	// events do not wait.
	joinedWait = 2 * time.Second
)

// choosePaged removes the events of pages that are not to wait; events[i] belongs to parked[i].
func (l *Events) choosePaged(ctx context.Context, events []*Event, parked []store.PendingEvent) ([]*Event, []store.PendingEvent, error) {
	var ids []id.EventID
	for _, ev := range events {
		if ev.Page {
			ids = append(ids, ev.ID)
		}
	}
	if len(ids) == 0 {
		return events, parked, nil
	}
	known, err := l.Env.Store.PendingOf(ctx, l.Account.Row, l.RowID, ids)
	if err != nil {
		return nil, nil, fmt.Errorf("look up events that wait: %w", err)
	}
	waiting, err := l.Env.Store.PendingCount(ctx, l.Account.Row, l.RowID)
	if err != nil {
		return nil, nil, err
	}
	may := func(i int) bool {
		_, waits := known[events[i].ID]
		return !waits && waiting < maxOfPages
	}
	var joined []id.RoomID
	for i, ev := range events {
		if ev.Page && may(i) { // asked once, and only if there is something to keep
			joined = l.joinedRooms(ctx)
			break
		}
	}
	var keptEvents []*Event
	var kept []store.PendingEvent
	for i, ev := range events {
		if ev.Page {
			if !may(i) || !slices.Contains(joined, parked[i].RoomID) {
				continue
			}
			waiting++
		}
		keptEvents, kept = append(keptEvents, ev), append(kept, parked[i])
	}
	return keptEvents, kept, nil
}

// joinedRooms returns the rooms that the user is in; none if that cannot be found out now.
func (l *Events) joinedRooms(ctx context.Context) []id.RoomID {
	short, cancel := context.WithTimeout(ctx, joinedWait)
	defer cancel()
	var joined struct {
		Rooms []id.RoomID `json:"joined_rooms"`
	}
	err := l.Call(short, wire.Request{
		Op: "read the joined rooms", Method: http.MethodGet,
		Path: mautrix.ClientURLPath{"v3", "joined_rooms"}, Result: &joined, Large: true,
	})
	if err != nil {
		l.Env.Log.Warn().Err(err).Msg("Events of a page that cannot be read yet are not shown again by themselves")
		return nil
	}
	return joined.Rooms
}
