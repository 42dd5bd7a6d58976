package roomevents

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/e2ee/internal/wire"
)

const (
	// refillPages is how many pages of history one call of Refill reads, of refillEvents each.
	refillPages  = 10
	refillEvents = 100
)

// Refill fills a search index that was lost: it reads the history of the encrypted rooms
// again, a few pages at a time, which are indexed like all that is read. It returns
// [core.ErrMoreToDo] while there is more.
func (r *Reader) Refill(ctx context.Context) error {
	if !r.search.Refilling() || r.CurrentToken().IsZero() {
		return nil
	}
	left, known := r.search.ToRefill()
	if !known {
		rooms, err := r.encryptedRooms(ctx)
		if err != nil {
			return err
		}
		left = rooms
		if err := r.search.Refill(ctx, r.Device, left); err != nil {
			return err
		}
	}
	for range refillPages {
		if len(left) == 0 || !r.search.Refilling() {
			return nil
		}
		room := slices.Min(slices.Collect(maps.Keys(left)))
		end, err := r.readPage(ctx, room, left[room])
		if err != nil {
			return err
		}
		if left[room] = end; end == "" {
			delete(left, room)
		}
		if err := r.search.Refill(ctx, r.Device, left); err != nil {
			return err
		}
	}
	return core.ErrMoreToDo
}

// encryptedRooms returns those of the user's rooms that are encrypted.
func (r *Reader) encryptedRooms(ctx context.Context) (map[id.RoomID]string, error) {
	var joined struct {
		Rooms []id.RoomID `json:"joined_rooms"`
	}
	err := r.Call(ctx, wire.Request{
		Op: "list joined rooms", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "joined_rooms"}, Result: &joined, Large: true,
	})
	if err != nil {
		return nil, err
	}
	joined.Rooms = slices.DeleteFunc(joined.Rooms, func(room id.RoomID) bool { return len(room) > wire.MaxIDLength })
	if _, err := r.rooms.LoadRooms(ctx, joined.Rooms); err != nil {
		return nil, fmt.Errorf("look up rooms: %w", err)
	}
	all := make(map[id.RoomID]string)
	for _, room := range joined.Rooms {
		if r.rooms.KnownEncrypted(room) {
			all[room] = ""
		}
	}
	return all, nil
}

// readPage reads a page of a room's history and returns where the next one begins; empty at
// its end, or where the user may not read on.
func (r *Reader) readPage(ctx context.Context, room id.RoomID, from string) (end string, err error) {
	query := map[string]string{"dir": "b", "limit": strconv.Itoa(refillEvents)}
	if from != "" {
		query["from"] = from
	}
	var page struct {
		Chunk []json.RawMessage `json:"chunk"`
		End   string            `json:"end"`
	}
	err = r.Call(ctx, wire.Request{
		Op: "read history for the search index", Method: http.MethodGet, Path: mautrix.ClientURLPath{"v3", "rooms", room, "messages"},
		Query: query, Result: &page, Large: true,
	})
	if up, ok := errors.AsType[*wire.UpstreamError](err); ok && (up.Status == http.StatusForbidden || up.Status == http.StatusNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if _, err := r.rooms.LoadRooms(ctx, []id.RoomID{room}); err != nil {
		return "", fmt.Errorf("look up a room: %w", err)
	}
	in := make([]Incoming, len(page.Chunk))
	for i, event := range page.Chunk {
		in[i] = Incoming{RoomID: room, Event: event}
	}
	if _, err := r.Open(ctx, in); err != nil {
		return "", err
	}
	if page.End == from {
		return "", nil
	}
	return page.End, nil
}
