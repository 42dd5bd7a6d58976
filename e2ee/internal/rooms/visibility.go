package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/strictjson"
)

// visibility returns the room's history visibility, fetched if it is not known. It is not wider
// than what a client of this proxy has just set.
func (rt *Table) visibility(ctx context.Context, roomID id.RoomID) (string, error) {
	rt.Mu.Lock()
	r, err := rt.roomState(ctx, roomID)
	if err != nil {
		rt.Mu.Unlock()
		return "", err
	}
	if r.visibility != "" {
		defer rt.Mu.Unlock()
		return rt.shared.visible.narrow(roomID, r.visibility, rt.Env.Now()), nil
	}
	heard := r.heard
	rt.Mu.Unlock()
	content, err := readVisibility(ctx, rt.Call, roomID)
	if err != nil {
		return "", err
	}
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	switch {
	case r.visibility == "" && r.heard != heard:
		return "", core.ErrRoomChanged // it changed meanwhile: what was read may be older
	case r.visibility == "": // a sync in between is newer
		shown := knownVisibility(visibilityOf(content))
		if v := rt.shared.visible.narrow(roomID, shown, rt.Env.Now()); v != shown {
			return v, nil // the homeserver lags behind: it is asked again next time
		}
		s := rt.Begin()
		if err := rt.applyVisibility(ctx, s, roomID, shown); err != nil {
			return "", err
		}
		if err := commitRooms(ctx, s); err != nil {
			return "", err
		}
	}
	return rt.shared.visible.narrow(roomID, r.visibility, rt.Env.Now()), nil
}

// readVisibility requests the content of a room's history visibility.
func readVisibility(ctx context.Context, call Caller, roomID id.RoomID) (json.RawMessage, error) {
	var content json.RawMessage
	err := call(ctx, wire.Request{
		Op: "read the room's history visibility", Method: http.MethodGet,
		Path:   mautrix.ClientURLPath{"v3", "rooms", roomID, "state", wire.TypeVisibility, ""},
		Result: &content,
	})
	var up *wire.UpstreamError
	if errors.As(err, &up) && up.Status == http.StatusNotFound && up.ErrCode == "M_NOT_FOUND" {
		return json.RawMessage(`{}`), nil
	}
	return content, err
}

// knownVisibility returns a history visibility, or the one that holds where it is none.
func knownVisibility(v string) string {
	switch v {
	case "joined", "invited", "shared", "world_readable":
		return v
	default:
		return defaultVisibility
	}
}

// applyVisibility stages a history visibility.
func (rt *Table) applyVisibility(ctx context.Context, s *core.Step, roomID id.RoomID, v string) error {
	r, err := rt.change(ctx, s, roomID)
	if err != nil {
		return err
	}
	v = knownVisibility(v)
	r.heard++
	if r.visibility != "" && r.visibility != v {
		r.narrowed++
	}
	r.visibility = v
	if r.row.HistoryVisibility != v && r.encrypted {
		r.row.HistoryVisibility, r.stored = v, true
	}
	return nil
}

// NoteVisibility records that the homeserver has just accepted a history visibility from the client.
// Which one holds is asked with the next use, since somebody may have changed it again before this
// was answered; a wider one is not believed for a while, also if nothing can be stored.
func (rt *Table) NoteVisibility(ctx context.Context, roomID id.RoomID, visibility string) error {
	ctx = context.WithoutCancel(ctx)
	rt.shared.visible.record(roomID, visibility, rt.Env.Now())
	rt.Mu.Lock()
	defer rt.Mu.Unlock()
	rt.News++
	s := rt.Begin()
	staged, err := rt.change(ctx, s, roomID)
	if err != nil {
		return err
	}
	staged.refetchVisibility()
	err = commitRooms(ctx, s)
	if r := rt.known[roomID]; err != nil && r != nil {
		r.visibility = "" // the next use fetches it
		r.narrowed++
		r.heard++
	}
	return err
}

// refetchVisibility makes the next use fetch the room's history visibility again.
func (r *roomStep) refetchVisibility() {
	r.heard++
	r.visibility = ""
	r.narrowed++
	if r.row.HistoryVisibility != "" {
		r.row.HistoryVisibility, r.stored = "", true
	}
}

// visibilityOf reads an m.room.history_visibility content; empty when it is invalid.
func visibilityOf(content json.RawMessage) string {
	obj, err := strictjson.Parse(content)
	if err != nil {
		return ""
	}
	v, _ := obj.Text("history_visibility")
	return v
}

// Shareable reports whether a history visibility lets later members read what was
// sent before (requirement 9.5).
func Shareable(visibility string) bool {
	return visibility == "shared" || visibility == "world_readable"
}
