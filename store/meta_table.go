package store

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"e2ee-proxy/internal/seal"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

// Table meta has one row: the ID of the database, its root secret sealed with a master key,
// and a hash of the rules under which events were last withheld. Opening the root secret
// checks that the master key is the right one.

const rootSize = 32

func metaPlace(database string) seal.Place {
	return seal.Place{Database: database, Table: "meta", Column: "sealed_root"}
}

// createMeta writes the row of a new database.
func (db *DB) createMeta(ctx context.Context, t *sqlio.Tx) error {
	if db.main.IsZero() {
		return withHint(fmt.Errorf("%w: a new database needs one", ErrMasterKey), "give a master key")
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // crypto/rand never returns an error
	db.id = hex.EncodeToString(id)
	db.root = make(secret.Bytes, rootSize)
	_, _ = rand.Read(db.root)
	err := t.Run(ctx, `INSERT INTO meta (one, database_id, master_key_id, sealed_root, created_at) VALUES (1, $1, $2, $3, $4)`,
		db.id, db.main.ID(), db.main.key.Seal(db.root, metaPlace(db.id)), sqlio.Micros(db.now()))
	if err != nil {
		return fmt.Errorf("make meta row: %w", err)
	}
	return nil
}

// loadMeta opens the root secret and checks that every account key can be opened too.
func (db *DB) loadMeta(ctx context.Context, query querier) error {
	var keyID string
	var sealed []byte
	found := false
	err := query(ctx, "SELECT database_id, master_key_id, sealed_root FROM meta", nil, func(r *sql.Rows) error {
		found = true
		return r.Scan(&db.id, &keyID, &sealed)
	})
	if err != nil {
		return fmt.Errorf("read meta row: %w", err)
	}
	if !found {
		return errors.New("meta row is missing: the database is damaged")
	}
	key, err := db.masterKey(keyID)
	if err != nil {
		return err
	}
	if db.root, err = key.key.Open(sealed, metaPlace(db.id)); err != nil {
		return fmt.Errorf("%w: open root secret: %w", ErrMasterKey, err)
	}
	return db.checkAccountKeys(ctx, query)
}

// masterKey returns the key with an ID among those the database was opened with.
func (db *DB) masterKey(id string) (MasterKey, error) {
	k, ok := db.keys[id]
	if !ok {
		return MasterKey{}, withHint(fmt.Errorf("%w: the database needs the key with ID %.16q", ErrMasterKey, id),
			"give that key, as the current one or among the old ones; a new one could open nothing")
	}
	return k, nil
}

// Hash returns a keyed hash for looking up what must not be in the database in clear, such
// as tokens. Hashes for different purposes are independent of each other.
func (db *DB) Hash(purpose string, data []byte) [32]byte {
	h, ok := db.hashes.Get().(hash.Hash)
	if !ok {
		h = hmac.New(sha256.New, db.root.Reveal())
	}
	b := binary.AppendUvarint(make([]byte, 0, 64), uint64(len(purpose)))
	h.Write(append(b, purpose...))
	h.Write(data)
	var sum [32]byte
	h.Sum(sum[:0])
	h.Reset() // nothing of the data stays
	db.hashes.Put(h)
	return sum
}
