package ownbackup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee/internal/keybackup"
	"e2ee-proxy/store"
)

const (
	// maxOfRoom bounds the keys that one FetchRoom takes.
	maxOfRoom = 20_000
	// wholeRoomFor is how long the backup is not asked for the same room again.
	wholeRoomFor = time.Hour
)

// FetchRoom stores the keys of a room that the backup has and that are not here. It does
// nothing where the backup cannot be read, or was asked for this room a short while ago.
func (b *Backup) FetchRoom(ctx context.Context, room id.RoomID) error {
	target, err := b.target(ctx)
	if err != nil || target == nil || target.Private == nil {
		return err
	}
	b.Mu.Lock()
	last, asked := b.wholeRooms[room]
	b.Mu.Unlock()
	if asked && b.Env.Now().Sub(last) < wholeRoomFor {
		return nil
	}
	whole, err := b.wholeKeys(ctx, room)
	if err != nil {
		return err
	}
	if err := b.fetchMissing(ctx, target, room, whole); err != nil {
		return err
	}
	b.Mu.Lock()
	defer b.Mu.Unlock()
	if b.wholeRooms == nil || len(b.wholeRooms) >= maxFetches {
		b.wholeRooms = make(map[id.RoomID]time.Time)
	}
	b.wholeRooms[room] = b.Env.Now()
	return nil
}

// wholeKeys returns the sessions of a room whose keys are here from their beginning on.
func (b *Backup) wholeKeys(ctx context.Context, room id.RoomID) (map[id.SessionID]bool, error) {
	whole := make(map[id.SessionID]bool)
	for row, err := range b.Env.Store.InboundSessionsOfRoom(ctx, b.acct.Row, b.RowID, room) {
		if err != nil {
			return nil, fmt.Errorf("load room keys: %w", err)
		}
		if row.FirstIndex == 0 {
			whole[row.SessionID] = true
		}
	}
	return whole, nil
}

// fetchMissing reads a room's part of the backup and stores, in batches, what is missing.
func (b *Backup) fetchMissing(ctx context.Context, target *keybackup.Target, room id.RoomID, whole map[id.SessionID]bool) error {
	var rows []store.InboundSession
	read := 0
	flush := func() error {
		kept, err := b.host.KeepKept(ctx, rows)
		b.Env.Counts.Restores.Add(float64(kept))
		rows = rows[:0]
		return err
	}
	err := b.readRoom(ctx, target.Version, room, func(session id.SessionID, raw json.RawMessage) error {
		if whole[session] || read >= maxOfRoom {
			return nil
		}
		read++
		row, err := keybackup.Open(store.SessionRef{RoomID: room, SessionID: session}, bytes.Clone(raw), target.Private, target.MACKey)
		if err != nil {
			b.Env.Counts.Refusals.Inc()
			return nil
		}
		row.BackupVersion = target.Version
		if rows = append(rows, row); len(rows) < restoreBatch {
			return nil
		}
		return flush()
	})
	return errors.Join(err, flush())
}
