package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"sync"
)

// Every message that goes out in clear asks whether its room is known to be encrypted, and
// nearly always the answer is no. Where no other process can write, memory knows it: a part
// of each name that is in the table, which takes 20 bytes or so a room.

// maxKnownRooms bounds it. With more rooms the table is asked.
const maxKnownRooms = 1 << 18

const selectAllEncryptedRooms = "SELECT room FROM encrypted_rooms LIMIT $1"

// knownRooms tells of which rooms the table has nothing for certain. Its zero value tells of none.
type knownRooms struct {
	mu    sync.RWMutex
	parts map[uint64]struct{} // nil: the table has to be asked
}

func part(name [32]byte) uint64 { return binary.BigEndian.Uint64(name[:]) }

// load reads the table, in the transaction that opens the database.
func (k *knownRooms) load(ctx context.Context, t *tx) error {
	parts := make(map[uint64]struct{})
	err := t.rows(ctx, selectAllEncryptedRooms, []any{maxKnownRooms + 1}, func(r *sql.Rows) error {
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

// add is called before a room is written: one that is not, in the end, costs a question.
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

// lacks reports whether the table has nothing of a room.
func (k *knownRooms) lacks(name [32]byte) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.parts == nil {
		return false
	}
	_, has := k.parts[part(name)]
	return !has
}
