package ownbackup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/e2ee/internal/wire"
	"e2ee-proxy/internal/parallel"
	"e2ee-proxy/store"
)

// A page of history costs one request for each room on it, whatever the number of its keys: one
// key is asked for alone, more with all keys of their room, which the API has no other way for.
// What else comes is kept, so that the page behind this one needs no request. A room with very
// many keys would cost too much each time: of those the keys are asked for one by one, and never
// for each event.
const (
	// wholeRoom is the number of wanted keys of a room from which on one request fetches
	// all keys of the room.
	wholeRoom = 2
	// maxRoomKeys is how many keys of a room are read at most.
	maxRoomKeys = 2000
	// maxOtherKey is the size in bytes from which on a key that is not wanted is not kept.
	maxOtherKey = 4 << 10
	// maxLarge is how many rooms are remembered as large.
	maxLarge = 1000
	// roomPatience is the timeout for the download of a room's keys.
	roomPatience = time.Minute
)

// errLarge ends the reading of a room's keys because there are too many.
var errLarge = errors.New("the room has too many keys")

// nextRequests splits off the fetches for the next requests, in order. Several fetches of one
// room count as one request, unless the room is large.
func nextRequests(wanted []*fetch, requests int, large map[id.RoomID]bool) (batch, rest []*fetch) {
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
			taken[room] = of[room] >= wholeRoom && !large[room]
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

// otherKeys are keys that came with those that were wanted.
type otherKeys struct {
	target *keybackup.Target
	refs   []store.SessionRef
	raw    []json.RawMessage
}

// backedKeys collects the backup's entries.
type backedKeys struct {
	mu    sync.Mutex
	found map[store.SessionRef]json.RawMessage
	other otherKeys
}

func (k *backedKeys) keep(ref store.SessionRef, raw json.RawMessage) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.found[ref] = raw
}

func (k *backedKeys) keepOther(ref store.SessionRef, raw json.RawMessage) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.other.refs, k.other.raw = append(k.other.refs, ref), append(k.other.raw, raw)
}

// fetchBacked returns the backup's entries of keys, and those that came along. Keys that the
// backup does not have are missing.
func (b *Backup) fetchBacked(ctx context.Context, target *keybackup.Target, batch []*fetch) (map[store.SessionRef]json.RawMessage, *otherKeys, error) {
	keys := &backedKeys{found: make(map[store.SessionRef]json.RawMessage, len(batch)), other: otherKeys{target: target}}
	of := countRooms(batch)
	rooms := make(map[id.RoomID]map[id.SessionID]bool)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(fetchParallel)
	for _, f := range batch {
		room := f.ref.RoomID
		if of[room] < wholeRoom || b.isLarge(room) {
			group.Go(parallel.Safe(func() error { return b.fetchKey(groupCtx, target.Version, f.ref, keys) }))
			continue
		}
		if rooms[room] == nil {
			rooms[room] = make(map[id.SessionID]bool, of[room])
		}
		rooms[room][f.ref.SessionID] = true
	}
	var mu sync.Mutex
	var left []store.SessionRef // of rooms that turned out to be large
	for room, wanted := range rooms {
		group.Go(parallel.Safe(func() error {
			err := b.fetchRoom(groupCtx, target.Version, room, wanted, keys)
			if !errors.Is(err, errLarge) {
				return err
			}
			b.noteLarge(room)
			mu.Lock()
			defer mu.Unlock()
			for session := range wanted {
				left = append(left, store.SessionRef{RoomID: room, SessionID: session})
			}
			return nil
		}))
	}
	if err := group.Wait(); err != nil {
		return keys.found, &keys.other, err
	}
	group, groupCtx = errgroup.WithContext(ctx)
	group.SetLimit(fetchParallel)
	for _, ref := range left {
		if keys.found[ref] == nil {
			group.Go(parallel.Safe(func() error { return b.fetchKey(groupCtx, target.Version, ref, keys) }))
		}
	}
	err := group.Wait()
	return keys.found, &keys.other, err
}

func (b *Backup) isLarge(room id.RoomID) bool {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	return b.fetching.large[room]
}

// noteLarge remembers that the backup has too many keys of a room to ask for all at once.
func (b *Backup) noteLarge(room id.RoomID) {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	if b.fetching.large == nil || len(b.fetching.large) >= maxLarge {
		b.fetching.large = make(map[id.RoomID]bool)
	}
	b.fetching.large[room] = true
}

// keepOthers stores keys that came along, in batches. What fails here is fetched when it is
// wanted.
func (b *Backup) keepOthers(ctx context.Context, others *otherKeys) {
	if others == nil {
		return
	}
	var rows []store.InboundSession
	for i, ref := range others.refs {
		row, err := keybackup.Open(ref, others.raw[i], others.target.Private, others.target.MACKey)
		if err == nil {
			row.BackupVersion = others.target.Version
			rows = append(rows, row)
		}
		if len(rows) < restoreBatch && i < len(others.refs)-1 {
			continue
		}
		kept, err := b.host.KeepKept(ctx, rows)
		b.Env.Counts.Restores.Add(float64(kept))
		if err != nil {
			b.Env.Log.Warn().Err(err).Msg("Room keys from the backup could not be stored; they are fetched again when they are needed")
			return
		}
		rows = rows[:0]
	}
}

// fetchKey fetches one key from the backup.
func (b *Backup) fetchKey(ctx context.Context, version string, ref store.SessionRef, keys *backedKeys) error {
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
		keys.keep(ref, raw)
	}
	return err
}

// fetchRoom fetches the keys of a room from the backup: those that are wanted, which it removes
// from wanted, and others. errLarge means that there are more.
func (b *Backup) fetchRoom(ctx context.Context, version string, room id.RoomID, wanted map[id.SessionID]bool, keys *backedKeys) error {
	read := 0
	return b.readRoom(ctx, version, room, func(session id.SessionID, raw json.RawMessage) error {
		if read++; read > maxRoomKeys {
			return errLarge
		}
		ref := store.SessionRef{RoomID: room, SessionID: session}
		switch {
		case wanted[session]:
			delete(wanted, session)
			keys.keep(ref, bytes.Clone(raw))
		case len(raw) <= maxOtherKey && len(session) <= wire.MaxIDLength:
			keys.keepOther(ref, bytes.Clone(raw))
		}
		return nil
	})
}

// readRoom reads the keys of a room in the backup, and calls each for every one until it
// returns an error. raw is valid until then. A room without keys has none to read.
func (b *Backup) readRoom(ctx context.Context, version string, room id.RoomID, each func(session id.SessionID, raw json.RawMessage) error) error {
	err := b.Env.Homeserver.Stream(ctx, b.CurrentToken(), wire.Request{
		Op: "fetch the room keys of a room from the backup", Method: http.MethodGet,
		Path:  mautrix.ClientURLPath{"v3", "room_keys", "keys", room},
		Query: map[string]string{"version": version}, Patient: roomPatience,
	}, func(body io.Reader) error { return keybackup.ReadRoom(body, each) })
	if wire.Status(err) == http.StatusNotFound {
		return nil
	}
	return err
}
