package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/store/internal/sqlio"
)

// Table intents has requests of clients that a homeserver does again when they are made again, such
// as to make a room. One is stored before it goes to the homeserver, so that who has the account after
// this process has ended knows that it may have been done. It is sealed: who can write to the database
// could name a room of their own as the one that was made.

const (
	putIntent = `INSERT INTO intents (account, request, made_at, sealed_intent) VALUES ($1, $2, $3, $4)
		ON CONFLICT (account, request) DO UPDATE SET made_at = excluded.made_at, sealed_intent = excluded.sealed_intent`
	selectIntents = "SELECT request, made_at, sealed_intent FROM intents WHERE account = $1 ORDER BY made_at"
	deleteIntent  = "DELETE FROM intents WHERE account = $1 AND request = $2"
	pruneIntents  = `DELETE FROM intents WHERE (account, request) IN
		(SELECT account, request FROM intents WHERE made_at < $1 LIMIT 1000)`
)

// Intent is a request that must not be done twice.
type Intent struct {
	// Request names the request in all replicas.
	Request string
	// Said is a keyed hash of what the client asked for, and with which device.
	Said [32]byte
	// Before has a keyed hash of each room that the account had joined before, in order.
	Before []uint64
	// Room is what the homeserver answered; empty while it did not.
	Room id.RoomID
	// Identity is the master key that a reset of the identity has published; empty before it was done.
	Identity id.Ed25519
	MadeAt   time.Time
	// Left reports whether it was made by who had the account before: it is set by [DB.Intents].
	Left bool
}

// sealedIntent is what of an intent is sealed.
type sealedIntent struct {
	Said     []byte     `json:"said"`
	Before   []uint64   `json:"before,omitempty"`
	Room     id.RoomID  `json:"room,omitempty"`
	Identity id.Ed25519 `json:"identity,omitempty"`
	Epoch    int64      `json:"epoch"`
}

// HashIntent returns the keyed hash of what a client asks for, see [Intent].
func (db *DB) HashIntent(device id.DeviceID, content []byte) [32]byte {
	return db.Hash("intent", append(lengths(string(device)), content...))
}

// HashJoined returns the keyed hash of a room, see [Intent].
func (db *DB) HashJoined(room id.RoomID) uint64 {
	h := db.Hash("joined room of an intent", []byte(room))
	var n uint64
	for _, b := range h[:8] {
		n = n<<8 | uint64(b)
	}
	return n
}

// PutIntent stores an intent, or what became of it.
func (db *DB) PutIntent(ctx context.Context, acct *Account, in Intent) error {
	plain, err := json.Marshal(sealedIntent{in.Said[:], in.Before, in.Room, in.Identity, acct.epoch})
	if err != nil {
		return fmt.Errorf("store an intent: %w", err)
	}
	at := sqlio.Micros(in.MadeAt)
	sealed := acct.seal(plain, "intents", "sealed_intent", in.Request, strconv.FormatInt(at, 10))
	return db.changeIntent(ctx, acct, "store", putIntent, acct.ID, in.Request, at, sealed)
}

// DropIntent deletes an intent of which nothing came.
func (db *DB) DropIntent(ctx context.Context, acct *Account, request string) error {
	return db.changeIntent(ctx, acct, "delete", deleteIntent, acct.ID, request)
}

func (db *DB) changeIntent(ctx context.Context, acct *Account, what, text string, params ...any) error {
	err := db.write(ctx, acct, func(ctx context.Context, t *sqlio.Tx) error {
		_, err := t.Do(ctx, text, params...)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s an intent: %w", what, err)
	}
	return nil
}

// Intents reads the intents of an account, the oldest first.
func (db *DB) Intents(ctx context.Context, acct *Account) ([]Intent, error) {
	var all []Intent
	err := db.reader.Query(ctx, selectIntents, []any{acct.ID}, func(r *sql.Rows) error {
		var in Intent
		var at int64
		var sealed sql.RawBytes
		if err := r.Scan(sqlio.TextInto(&in.Request), &at, &sealed); err != nil {
			return err
		}
		plain, err := acct.open(sealed, "intents", "sealed_intent", in.Request, strconv.FormatInt(at, 10))
		if err != nil {
			return err
		}
		var s sealedIntent
		if err := json.Unmarshal(plain, &s); err != nil || len(s.Said) != len(in.Said) || !slices.IsSorted(s.Before) {
			return fmt.Errorf("%w: an intent is damaged", ErrSealed)
		}
		in.Said, in.Before, in.Room, in.Identity = [32]byte(s.Said), s.Before, s.Room, s.Identity
		in.MadeAt, in.Left = time.UnixMicro(at), s.Epoch != acct.epoch
		all = append(all, in)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the intents: %w", err)
	}
	return all, nil
}

// PruneIntents deletes intents made before a time, and returns how many.
func (db *DB) PruneIntents(ctx context.Context, before time.Time) (int64, error) {
	return db.prune(ctx, "intents", pruneIntents, sqlio.Micros(before))
}
