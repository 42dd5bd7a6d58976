package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

// A device that is deleted leaves a hash of its name and its public signing key behind, for
// ever: when the homeserver shows that key again, the key was ours, and its private half is
// gone.

const (
	// selectOurs finds a device if its keys were made here.
	selectOurs      = "SELECT device_id, ed25519 FROM devices WHERE account = $1 AND id = $2 AND state = $3"
	insertForgotten = "INSERT INTO forgotten_devices (device, forgotten_at) VALUES ($1, $2) ON CONFLICT (device) DO NOTHING"
	selectForgotten = "SELECT COUNT(*) FROM forgotten_devices WHERE device = $1"
)

// PublishedDevice names a device by what the homeserver shows of it.
type PublishedDevice struct {
	UserID   id.UserID
	DeviceID id.DeviceID
	Ed25519  string // public, unpadded base64
}

func (db *DB) hashDevice(d PublishedDevice) [32]byte {
	var b []byte
	for _, part := range []string{string(d.UserID), string(d.DeviceID), d.Ed25519} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return db.Hash("forgotten device", b)
}

// rememberForgotten stores the hash of a device that is being deleted.
func (db *DB) rememberForgotten(ctx context.Context, t *sqlio.Tx, acct *Account, device int64) error {
	d := PublishedDevice{UserID: acct.UserID}
	ours := false
	err := t.Rows(ctx, selectOurs, []any{acct.ID, device, int64(DeviceOurs)}, func(r *sql.Rows) error {
		ours = true
		return r.Scan(sqlio.TextInto(&d.DeviceID), sqlio.TextInto(&d.Ed25519))
	})
	if err != nil || !ours {
		return err
	}
	sum := db.hashDevice(d)
	err = t.Run(ctx, insertForgotten, sum[:], sqlio.Micros(db.now()))
	return err
}

// Forgotten reports whether a device is one that was deleted here.
func (db *DB) Forgotten(ctx context.Context, d PublishedDevice) (bool, error) {
	sum := db.hashDevice(d)
	n := int64(-1)
	err := db.reader.Query(ctx, selectForgotten, []any{sum[:]}, func(r *sql.Rows) error { return r.Scan(&n) })
	if err == nil && n < 0 {
		err = errors.New("no answer")
	}
	if err != nil {
		return false, fmt.Errorf("look for a forgotten device: %w", err)
	}
	return n > 0, nil
}
