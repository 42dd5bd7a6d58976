package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"

	"e2ee-proxy/internal/fileplace"
	"e2ee-proxy/store/internal/sqlio"
)

// Suffixes of the files beside a SQLite database, after SQLite's own "-wal" and "-shm".
const (
	suffixLock = "-lock"
	suffixMark = "-mark"
)

const liteReaders = 4

// Every commit is synced (synchronous=FULL). NORMAL would be several times as fast, but in
// WAL mode it lets a power loss take back commits: an index of which the ciphertext has
// left would be used again, and keys from to-device messages that were acknowledged to the
// homeserver would be gone for good. fullfsync is for macOS, where fsync alone does not
// reach the disk. secure_delete overwrites old ratchets in place.
var litePragmas = []string{
	"busy_timeout(10000)", "foreign_keys(1)", "synchronous(FULL)", "fullfsync(1)", "checkpoint_fullfsync(1)",
	"secure_delete(FAST)", "temp_store(MEMORY)", "cache_size(-8000)", "journal_size_limit(67108864)", "trusted_schema(0)",
}

func openSQLite(ctx context.Context, path string, l *lease, o Options) (_ *backend, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("path of database: %w", err)
	}
	// So that the files beside it are the same under every name.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	release, err := claimFile(ctx, path, o.ReadOnly)
	if err != nil {
		return nil, err
	}
	d := sqlio.SQLite()
	b := &backend{dialect: d, texts: sqlio.NewTextCache(d), release: release, writer: readOnly{}}
	reading, err := openLite(path, true, o.Wrap)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	readers := o.MaxConns
	if readers <= 0 {
		readers = liteReaders
	}
	reading.SetMaxOpenConns(readers)
	reading.SetMaxIdleConns(readers)
	b.reader = sqlio.NewReader(reading, true)
	if o.ReadOnly {
		return b, nil
	}
	writing, err := openLite(path, false, o.Wrap)
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	writing.SetMaxOpenConns(1)
	b.mark, err = openMark(path + suffixMark)
	if err != nil {
		return nil, errors.Join(err, writing.Close(), b.close())
	}
	w := newLiteWriter(writing, b.texts, b.mark, l)
	b.writer = w
	b.place = func(context.Context, *sqlio.Tx) (string, error) { return fileplace.Of(path) }
	return b, nil
}

// openLite makes a pool. The database file exists already.
func openLite(path string, reading bool, wrap func(driver.Connector) driver.Connector) (*sql.DB, error) {
	q := url.Values{"mode": {"rw"}, "_dqs": {"0"}, "_pragma": litePragmas}
	if reading {
		q.Add("_pragma", "query_only(1)")
	} else {
		// Last, because it needs the busy timeout.
		q.Add("_pragma", "journal_mode(WAL)")
	}
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: q.Encode()}
	c, err := sqlite.NewConnector(u.String())
	if err != nil {
		return nil, fmt.Errorf("set up SQLite: %w", err)
	}
	if wrap != nil {
		c = wrap(c)
	}
	return sql.OpenDB(c), nil
}

// claimFile makes the database file, readable by its owner only, and keeps other processes
// from writing to it: two proxies on one database would each advance the same ratchets. It
// uses SQLite's own lock on an empty database, which the system releases when the process
// dies.
func claimFile(ctx context.Context, path string, reading bool) (func() error, error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return nil, errors.New("path of database is not a file")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("look for database: %w", err)
	case reading && (err != nil || info.Size() == 0):
		return nil, fmt.Errorf("%w: no database file", ErrNotFound)
	case reading:
		return func() error { return nil }, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	// Existing files are not opened: closing a file that this process has locked would end the
	// lock.
	for _, p := range []string{path, path + suffixLock} {
		f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the path is the operator's
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("make database file: %w", err)
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("make database file: %w", err)
		}
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("make database file: %w", err)
	}
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(path + suffixLock), RawQuery: "mode=rw&_pragma=busy_timeout(0)"}
	return lockFile(ctx, u.String())
}

func lockFile(ctx context.Context, dsn string) (func() error, error) {
	c, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, fmt.Errorf("lock database: %w", err)
	}
	pool := sql.OpenDB(c)
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock database: %w", err), pool.Close())
	}
	if _, err := conn.ExecContext(ctx, "BEGIN EXCLUSIVE"); err != nil {
		err = withHint(ErrInUse, "stop the other e2ee-proxy, or give this one its own data directory")
		return nil, errors.Join(err, conn.Close(), pool.Close())
	}
	return func() error { return errors.Join(conn.Close(), pool.Close()) }, nil
}

// readOnly is the writer of a database that is only read.
type readOnly struct{}

func (readOnly) run(context.Context, func(context.Context, *sqlio.Tx) error) error {
	return ErrReadOnly
}
func (readOnly) close() error { return nil }
