package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"e2ee-proxy/store/internal/sqlio"
)

// Table restore_mark has one row; see restore.go. Only SQLite uses the generation: on
// PostgreSQL it would make all writers wait for each other. Only PostgreSQL numbers the
// transaction that wrote the row.

func randomText() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // crypto/rand never returns an error
	return hex.EncodeToString(b)
}

func (db *DB) createRestoreMark(ctx context.Context, t *sqlio.Tx, m restoreMark, place string) error {
	writer, err := db.transactionNumber(ctx, t)
	if err == nil {
		err = t.Run(ctx, "INSERT INTO restore_mark (one, incarnation, place, generation, written_by) VALUES (1, $1, $2, $3, $4)",
			m.incarnation, place, m.generation, writer)
	}
	if err != nil {
		return fmt.Errorf("make restore mark: %w", err)
	}
	return nil
}

func readRestoreMark(ctx context.Context, t *sqlio.Tx) (m restoreMark, place string, err error) {
	found := false
	err = t.Rows(ctx, "SELECT incarnation, place, generation, written_by FROM restore_mark", nil, func(r *sql.Rows) error {
		found = true
		return r.Scan(&m.incarnation, &place, &m.generation, &m.writer)
	})
	if err == nil && !found {
		err = errors.New("row is missing")
	}
	if err != nil {
		return restoreMark{}, "", fmt.Errorf("read restore mark: %w", err)
	}
	return m, place, nil
}

func (db *DB) updateRestoreMark(ctx context.Context, t *sqlio.Tx, m restoreMark, place string) error {
	writer, err := db.transactionNumber(ctx, t)
	if err == nil {
		err = t.Run(ctx, "UPDATE restore_mark SET incarnation = $1, place = $2, generation = $3, written_by = $4",
			m.incarnation, place, m.generation, writer)
	}
	if err != nil {
		return fmt.Errorf("store restore mark: %w", err)
	}
	return nil
}

// transactionNumber returns the number that PostgreSQL gives to rows written by this
// transaction; 0 if it is not known.
func (db *DB) transactionNumber(ctx context.Context, t *sqlio.Tx) (int64, error) {
	return db.number(ctx, t, "SELECT (txid_current() & 4294967295)::text")
}

// rowNumber returns the number that PostgreSQL gave to the row of restore_mark; 0 if it is
// not known.
func (db *DB) rowNumber(ctx context.Context, t *sqlio.Tx) (int64, error) {
	return db.number(ctx, t, "SELECT xmin::text FROM restore_mark")
}

func (db *DB) number(ctx context.Context, t *sqlio.Tx, query string) (int64, error) {
	if !db.dialect.SharedPool {
		return 0, nil
	}
	answer, err := pgAsk(ctx, t, query)
	if err != nil || answer == "-" {
		return 0, err
	}
	return strconv.ParseInt(answer, 10, 64)
}

// nextGeneration counts a transaction that moved a ratchet.
func nextGeneration(ctx context.Context, t *sqlio.Tx) (int64, error) {
	var generation int64
	err := t.Rows(ctx, "UPDATE restore_mark SET generation = generation + 1 RETURNING generation", nil,
		func(r *sql.Rows) error { return r.Scan(&generation) })
	if err != nil {
		return 0, fmt.Errorf("count generation: %w", err)
	}
	return generation, nil
}

// nextGenerationOfHolder is like nextGeneration, and finds no row for anybody but the
// holder of the lease.
const nextGenerationOfHolder = `UPDATE restore_mark SET generation = generation + 1
	WHERE EXISTS (SELECT 1 FROM lease WHERE one = 1 AND epoch = $1 AND holder = $2) RETURNING generation`
