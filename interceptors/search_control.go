package interceptors

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/interceptors/internal/engineerr"
)

// A search that names the control room. The homeserver does not know that room, so the name does
// not go up: a search in that room alone is answered here, and from a search in others as well it
// is taken out.

// inControlRoom takes the names of control rooms out of a search. If it was for the user's own
// alone, that is answered, and done is true.
func inControlRoom(x *Exchange, dev Device, asked *search) (done bool, err error) {
	own := string(e2ee.ControlRoomOf(x.Identity.UserID))
	named := slices.Contains(asked.rooms, own) && !slices.Contains(asked.not, own)
	asked.rooms = slices.DeleteFunc(asked.rooms, e2ee.IsControlRoom)
	room := dev.ControlRoom()
	if !named || len(asked.rooms) > 0 || !room.On() {
		return false, nil
	}
	view, err := room.View(x.Request.Context())
	if errors.Is(err, e2ee.ErrNoControlRoom) || err == nil && view.Left {
		return false, nil // as of any room that the user is not in
	}
	if err != nil {
		return false, engineerr.For(fmt.Errorf("search the control room: %w", err))
	}
	found := searchControl(view, &asked.index)
	out := map[string]any{"count": len(found), "highlights": []string{}, "results": found[:min(len(found), asked.index.limit)], "groups": map[string]any{}}
	if asked.index.includeState {
		out["state"] = map[string]any{own: view.State()}
	}
	return true, x.WriteJSON(map[string]any{"search_categories": map[string]any{"room_events": out}})
}

// searchControl returns what was said in the room and is looked for, the newest first.
func searchControl(view *e2ee.ControlView, q *indexQuery) []map[string]any {
	lines := view.History()
	slices.SortFunc(lines, func(a, b e2ee.ControlLine) int { return cmp.Compare(b.Seq, a.Seq) })
	found := []map[string]any{}
	for i := range lines {
		l := &lines[i]
		sender := e2ee.ControlSender
		if l.Mine {
			sender = view.User
		}
		switch {
		case q.senders != nil && !slices.Contains(q.senders, sender), slices.Contains(q.notSenders, sender), !q.fits(l.Type, l.Content):
			continue
		}
		around := map[string]any{"events_before": []json.RawMessage{}, "events_after": []json.RawMessage{}, "profile_info": map[string]any{}}
		found = append(found, map[string]any{"rank": 1, "result": view.Event(l), "context": around})
	}
	return found
}
