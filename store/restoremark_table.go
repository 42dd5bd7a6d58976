package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
)

// Table restore_mark has one row; see restore.go. Only SQLite uses the generation: on
// PostgreSQL it would make all writers wait for each other.

func randomText() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // crypto/rand never returns an error
	return hex.EncodeToString(b)
}

func createRestoreMark(ctx context.Context, t *tx, m mark, place string) error {
	_, err := t.do(ctx, "INSERT INTO restore_mark (one, incarnation, place, generation) VALUES (1, $1, $2, $3)",
		m.incarnation, place, m.generation)
	if err != nil {
		return fmt.Errorf("make restore mark: %w", err)
	}
	return nil
}

func readRestoreMark(ctx context.Context, t *tx) (m mark, place string, err error) {
	found := false
	err = t.rows(ctx, "SELECT incarnation, place, generation FROM restore_mark", nil, func(r *sql.Rows) error {
		found = true
		return r.Scan(&m.incarnation, &place, &m.generation)
	})
	if err == nil && !found {
		err = errors.New("row is missing")
	}
	if err != nil {
		return mark{}, "", fmt.Errorf("read restore mark: %w", err)
	}
	return m, place, nil
}

func updateRestoreMark(ctx context.Context, t *tx, m mark, place string) error {
	_, err := t.do(ctx, "UPDATE restore_mark SET incarnation = $1, place = $2, generation = $3",
		m.incarnation, place, m.generation)
	if err != nil {
		return fmt.Errorf("store restore mark: %w", err)
	}
	return nil
}

// nextGeneration counts a transaction that moved a ratchet.
func nextGeneration(ctx context.Context, t *tx) (int64, error) {
	var generation int64
	err := t.rows(ctx, "UPDATE restore_mark SET generation = generation + 1 RETURNING generation", nil,
		func(r *sql.Rows) error { return r.Scan(&generation) })
	if err != nil {
		return 0, fmt.Errorf("count generation: %w", err)
	}
	return generation, nil
}
