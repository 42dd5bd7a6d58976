package ownbackup

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/store"
)

const (
	// wholeRoom is the number of wanted keys of a room from which on one request fetches
	// all keys of the room: a page of history would otherwise cost one request for each
	// key.
	wholeRoom = 4
	// roomPatience is the timeout for the download of a room's keys.
	roomPatience = time.Minute
)

// nextRequests splits off the fetches for the next requests, in order. Many fetches of one
// room count as one request.
func nextRequests(wanted []*fetch, requests int) (batch, rest []*fetch) {
	of := countRooms(wanted)
	taken := make(map[id.RoomID]bool)
	for _, f := range wanted {
		room := f.ref.RoomID
		switch {
		case taken[room]:
		case requests == 0:
			rest = append(rest, f)
			continue
		default:
			requests--
			taken[room] = of[room] >= wholeRoom
		}
		batch = append(batch, f)
	}
	return batch, rest
}

func countRooms(fetches []*fetch) map[id.RoomID]int {
	of := make(map[id.RoomID]int)
	for _, f := range fetches {
		of[f.ref.RoomID]++
	}
	return of
}

// fetchBacked returns the backup's entries of keys. Keys that the backup does not have are
// missing.
func (b *Backup) fetchBacked(ctx context.Context, version string, batch []*fetch) (map[store.SessionRef]json.RawMessage, error) {
	of := countRooms(batch)
	rooms := make(map[id.RoomID]map[id.SessionID]bool)
	found := make(map[store.SessionRef]json.RawMessage, len(batch))
	var mu sync.Mutex
	keep := func(ref store.SessionRef, raw json.RawMessage) {
		mu.Lock()
		defer mu.Unlock()
		found[ref] = raw
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(fetchParallel)
	for _, f := range batch {
		room := f.ref.RoomID
		if of[room] < wholeRoom {
			group.Go(func() error { return b.fetchKey(groupCtx, version, f.ref, keep) })
			continue
		}
		if rooms[room] == nil {
			rooms[room] = make(map[id.SessionID]bool, of[room])
		}
		rooms[room][f.ref.SessionID] = true
	}
	for room, wanted := range rooms {
		group.Go(func() error { return b.fetchRoom(groupCtx, version, room, wanted, keep) })
	}
	err := group.Wait()
	return found, err
}

// fetchKey fetches one key from the backup.
func (b *Backup) fetchKey(ctx context.Context, version string, ref store.SessionRef, keep func(store.SessionRef, json.RawMessage)) error {
	var raw json.RawMessage
	err := b.Call(ctx, wire.Request{
		Op: "fetch a room key from the backup", Method: http.MethodGet,
		Path:  mautrix.ClientURLPath{"v3", "room_keys", "keys", ref.RoomID, ref.SessionID},
		Query: map[string]string{"version": version}, Result: &raw,
	})
	if wire.Status(err) == http.StatusNotFound {
		return nil
	}
	if err == nil {
		keep(ref, raw)
	}
	return err
}

// fetchRoom fetches all keys of a room from the backup and keeps those that are wanted.
func (b *Backup) fetchRoom(ctx context.Context, version string, room id.RoomID, wanted map[id.SessionID]bool, keep func(store.SessionRef, json.RawMessage)) error {
	err := b.Env.Homeserver.Stream(ctx, b.CurrentToken(), wire.Request{
		Op: "fetch the room keys of a room from the backup", Method: http.MethodGet,
		Path:  mautrix.ClientURLPath{"v3", "room_keys", "keys", room},
		Query: map[string]string{"version": version}, Patient: roomPatience,
	}, func(body io.Reader) error {
		return keybackup.ReadRoom(body, func(session id.SessionID, raw json.RawMessage) {
			if wanted[session] {
				keep(store.SessionRef{RoomID: room, SessionID: session}, bytes.Clone(raw))
			}
		})
	})
	if wire.Status(err) == http.StatusNotFound {
		return nil
	}
	return err
}
