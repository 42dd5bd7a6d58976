package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"sync"

	"e2ee-proxy/store/internal/sqlio"
)

// Every message that is sent in clear needs to know whether its room is known to be
// encrypted, and nearly always it is not. If no other process can write, that is answered
// from memory, with a part of each hash in the table: about 20 bytes a room.

// maxKnownRooms is how many rooms are kept in memory. With more, the table is queried.
const maxKnownRooms = 1 << 18

const selectAllEncryptedRooms = "SELECT room FROM encrypted_rooms LIMIT $1"

// knownRooms knows which rooms are certainly not in the table. Its zero value knows
// nothing.
type knownRooms struct {
	mu    sync.RWMutex
	parts map[uint64]struct{} // nil: the table has to be queried
}

func part(name [32]byte) uint64 { return binary.BigEndian.Uint64(name[:]) }

// load reads the table, in the transaction that opens the database.
func (k *knownRooms) load(ctx context.Context, t *sqlio.Tx) error {
	parts := make(map[uint64]struct{})
	err := t.Rows(ctx, selectAllEncryptedRooms, []any{maxKnownRooms + 1}, func(r *sql.Rows) error {
		var name []byte
		if err := r.Scan(&name); err != nil {
			return err
		}
		if len(name) != 32 {
			return errDamagedHash
		}
		parts[part([32]byte(name))] = struct{}{}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read encrypted rooms: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.parts = parts
	k.bound()
	return nil
}

// add must be called before a room is written. If it is not written in the end, that only
// costs a query.
func (k *knownRooms) add(name [32]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.parts != nil {
		k.parts[part(name)] = struct{}{}
		k.bound()
	}
}

func (k *knownRooms) bound() {
	if len(k.parts) > maxKnownRooms {
		k.parts = nil
	}
}

// lacks reports whether a room is certainly not in the table.
func (k *knownRooms) lacks(name [32]byte) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.parts == nil {
		return false
	}
	_, has := k.parts[part(name)]
	return !has
}
