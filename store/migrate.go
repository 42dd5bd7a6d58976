package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"slices"
	"strings"

	"e2ee-proxy/store/internal/sqlio"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrations are in order; the number of the last is the schema version that this program
// needs.
var migrations = []string{
	"0001_initial.sql", "0002_sealed_trust.sql", "0003_held_back.sql", "0004_more_owners.sql", "0005_held_events.sql",
	"0006_lease.sql", withEncryptedRooms,
	"0008_transactions.sql",
	"0009_transactions.sql", "0010_search.sql", "0011_unread.sql", "0012_files.sql", "0013_notifications.sql",
	"0014_audit.sql", "0015_replicas.sql", "0016_exceptions.sql", "0017_control_rooms.sql", "0018_console.sql",
	"0019_intents.sql", "0020_key_shares.sql", "0021_olm_sessions_with.sql", "0022_distrusts.sql",
}

// withEncryptedRooms is the migration that makes table encrypted_rooms.
const withEncryptedRooms = "0007_encrypted_rooms.sql"

const (
	liteHasSchema = `SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'`
	pgHasSchema   = `SELECT COUNT(*) FROM pg_catalog.pg_class WHERE oid = to_regclass('schema_version')`
	// pgMigrationLock is our number among the database's advisory locks.
	pgMigrationLock = 0x6532_6565_7078
)

func (db *DB) latest() int64 { return int64(len(migrations)) + db.newer }

// lockVersion keeps other processes from migrating at the same time and returns the version
// of the tables: 0 when there are none. It refuses an unknown version.
func (db *DB) lockVersion(ctx context.Context, t *sqlio.Tx) (int64, error) {
	if db.dialect.SharedPool {
		if err := t.Rows(ctx, "SELECT pg_advisory_xact_lock($1)", []any{int64(pgMigrationLock)}, ignoreRow); err != nil {
			return 0, fmt.Errorf("lock schema: %w", err)
		}
	}
	version, err := db.version(ctx, t.Rows)
	if err != nil {
		return 0, err
	}
	if version > db.latest() {
		return 0, errNewer(version, db.latest())
	}
	return version, nil
}

func errNewer(version, latest int64) error {
	return withHint(fmt.Errorf("%w: schema version %d, this program knows %d", ErrNewer, version, latest),
		"run the newer program, or restore the backup made before it was installed")
}

func (db *DB) readVersion(ctx context.Context) (int64, error) {
	return db.version(ctx, db.reader.Query)
}

// querier runs a query inside or outside a transaction.
type querier func(ctx context.Context, text string, params []any, each func(*sql.Rows) error) error

func (db *DB) version(ctx context.Context, query querier) (int64, error) {
	var have, version int64
	has := liteHasSchema
	if db.dialect.SharedPool {
		has = pgHasSchema
	}
	if err := query(ctx, has, nil, func(r *sql.Rows) error { return r.Scan(&have) }); err != nil {
		return 0, fmt.Errorf("look for schema: %w", err)
	}
	if have == 0 {
		return 0, nil
	}
	err := query(ctx, "SELECT version FROM schema_version", nil, func(r *sql.Rows) error { return r.Scan(&version) })
	if err != nil {
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	if version < 1 {
		return 0, errors.New("schema version is damaged")
	}
	return version, nil
}

// migrate brings the tables from one version to the latest.
func (db *DB) migrate(ctx context.Context, t *sqlio.Tx, from int64) error {
	if from == db.latest() {
		return nil
	}
	if from == 0 {
		if _, err := t.Do(ctx, db.dialect.Words.Replace("CREATE TABLE schema_version (version {{int}} NOT NULL)")); err != nil {
			return fmt.Errorf("make schema version: %w", err)
		}
		if _, err := t.Do(ctx, "INSERT INTO schema_version (version) VALUES (0)"); err != nil {
			return fmt.Errorf("make schema version: %w", err)
		}
	}
	for _, name := range migrations[from:] {
		if err := db.apply(ctx, t, name); err != nil {
			return fmt.Errorf("migrate %s: %w", name, err)
		}
	}
	if from == 1 {
		if err := db.sealTrust(ctx, t); err != nil {
			return fmt.Errorf("migrate: seal whom accounts trust: %w", err)
		}
	}
	if from > 0 && slices.Contains(migrations[from:], withEncryptedRooms) {
		if err := db.collectEncryptedRooms(ctx, t); err != nil {
			return fmt.Errorf("migrate: collect encrypted rooms: %w", err)
		}
	}
	if _, err := t.Do(ctx, "UPDATE schema_version SET version = $1", db.latest()); err != nil {
		return fmt.Errorf("store schema version: %w", err)
	}
	return nil
}

func (db *DB) apply(ctx context.Context, t *sqlio.Tx, name string) error {
	file, err := migrationFiles.ReadFile("migrations/" + name)
	if err != nil {
		return err
	}
	for _, s := range statements(db.dialect.Words.Replace(string(file))) {
		if _, err := t.Do(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// statements splits a migration file: comments have lines of their own, and a statement
// ends with a semicolon at the end of a line.
func statements(file string) []string {
	var all []string
	var b strings.Builder
	for line := range strings.Lines(file) {
		if strings.HasPrefix(line, "--") || strings.TrimSpace(line) == "" {
			continue
		}
		b.WriteString(line)
		if strings.HasSuffix(strings.TrimSpace(line), ";") {
			all = append(all, b.String())
			b.Reset()
		}
	}
	return all
}

func ignoreRow(*sql.Rows) error { return nil }
