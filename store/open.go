package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

// Options configures Open.
type Options struct {
	// URL is "sqlite:PATH" or a PostgreSQL URL ("postgres://…", "postgresql://…"), which
	// may hold a password.
	URL        secret.String
	MasterKeys MasterKeys
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// ReadOnly opens an existing database beside the process that owns it. It changes nothing:
	// no migration, no check for a restore; every write is [ErrReadOnly].
	ReadOnly bool
	// Audit reports whether who was given keys is written into the audit log.
	Audit bool
	// MaxConns is how many connections there are to PostgreSQL, and readers of SQLite; 0 means
	// 16 and 4.
	MaxConns int

	// Lease is how long a process that died keeps others out of a PostgreSQL database; 0 means
	// 12 seconds. In a cluster it is how long it keeps others from its accounts, and 0 means 3
	// seconds.
	Lease time.Duration
	// Waiting is called when Open begins to wait for another process's lease to end; may be
	// nil.
	Waiting func(why error)
	// MarkFile is a file beside the master key by which an older PostgreSQL database is
	// recognised; empty for none. SQLite has its own.
	MarkFile string

	// Cluster makes the process one of several on a PostgreSQL database; nil: it is the only one.
	// It is ignored with ReadOnly.
	Cluster *Cluster

	// Wrap, when not nil, wraps the driver: tests count and fail statements there.
	Wrap func(driver.Connector) driver.Connector
	// renewTicks, in tests, are the times at which the lease is renewed.
	renewTicks <-chan time.Time
	// newer, in tests, is how many schema versions the program is ahead of its migrations.
	newer int64
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	*backend
	keys map[string]MasterKey // by ID
	main MasterKey
	now  func() time.Time
	id   string // of the database
	root secret.Bytes
	// hashes has hashes with the root as their key, see Hash.
	hashes sync.Pool

	rooms knownRooms
	audit auditLog

	lease    *lease
	cluster  *Cluster       // nil: this is the only process
	owned    *ownedAccounts // nil without a cluster
	restored string
	newer    int64
}

// backend holds the differences between the databases beyond the text of statements.
type backend struct {
	dialect *sqlio.Dialect
	texts   *sqlio.TextCache
	reader  *sqlio.Reader
	writer  writer
	// place returns where the data is, as a text that changes when it is restored elsewhere.
	place func(ctx context.Context, t *sqlio.Tx) (string, error)
	// mark is nil on PostgreSQL.
	mark *markFile
	// beatFile is the file that Options.MarkFile names, on PostgreSQL only.
	beatFile *markFile
	// release releases the lock that keeps other processes out.
	release func() error
}

func (b *backend) close() error {
	err := errors.Join(b.writer.close(), b.reader.Close(), b.release())
	if b.beatFile != nil {
		err = errors.Join(err, b.beatFile.close())
	}
	return err
}

// Open opens a database, makes or migrates its tables, checks the master keys against it
// and checks whether it was restored from a backup (see [DB.Restored]).
func Open(ctx context.Context, o Options) (*DB, error) {
	db, err := connect(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if o.ReadOnly {
		err = db.prepareReadOnly(ctx)
	} else {
		err = db.awaitLease(ctx, o.Waiting, func() error { return db.prepare(ctx) })
	}
	if err == nil {
		err = db.openAudit(o.Audit)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database: %w", poolerHint(err)), db.Close())
	}
	if !o.ReadOnly {
		db.startRenewals(o.renewTicks)
	}
	return db, nil
}

// Exists reports whether there is a database with our tables at the URL. It needs no key
// and makes nothing.
func Exists(ctx context.Context, url secret.String) (bool, error) {
	db, err := connect(ctx, Options{URL: url, ReadOnly: true})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for database: %w", err)
	}
	version, err := db.readVersion(ctx)
	if err := errors.Join(err, db.Close()); err != nil {
		return false, fmt.Errorf("look for database: %w", err)
	}
	return version > 0, nil
}

func connect(ctx context.Context, o Options) (*DB, error) {
	db := &DB{main: o.MasterKeys.Current, now: o.Now, keys: make(map[string]MasterKey), lease: newLease(o.Lease, o.Cluster != nil && !o.ReadOnly)}
	db.newer = o.newer
	if db.lease.replica {
		db.cluster, db.owned = o.Cluster, newOwnedAccounts(o.Cluster)
	}
	if db.now == nil {
		db.now = time.Now
	}
	for _, k := range append([]MasterKey{o.MasterKeys.Current}, o.MasterKeys.Old...) {
		if !k.IsZero() {
			db.keys[k.ID()] = k
		}
	}
	url := o.URL.Reveal()
	kind, rest, _ := strings.Cut(url, ":")
	var err error
	switch {
	case kind == "sqlite" && db.cluster != nil:
		err = withHint(errors.New("a cluster needs PostgreSQL: a SQLite database has one process"), "leave cluster out, or set a PostgreSQL URL")
	case kind == "sqlite" && rest != "":
		db.backend, err = openSQLite(ctx, rest, db.lease, o)
	case kind == "postgres" || kind == "postgresql":
		db.backend, err = openPostgres(ctx, url, db, o)
	default:
		err = withHint(errors.New("unknown kind of database URL"), "sqlite:PATH or postgres://…")
	}
	if err != nil {
		return nil, err
	}
	return db, nil
}

// Close releases the lease and ends all connections. Transactions under way are finished
// first.
func (db *DB) Close() error {
	if err := errors.Join(db.endLease(), db.close()); err != nil {
		return fmt.Errorf("close database: %w", err)
	}
	return nil
}

// Ping returns nil if the database answers and, unless it was opened for reading only, may
// be written to.
func (db *DB) Ping(ctx context.Context) error {
	if err := db.Lease(); err != nil {
		return fmt.Errorf("ping database: %w", err)
	}
	if err := db.reader.DB.PingContext(ctx); err != nil {
		return fmt.Errorf("ping database: %w", err)
	}
	return nil
}

// prepare runs the first transaction, all or nothing: the lease, tables, keys, and the
// check for a restore.
func (db *DB) prepare(ctx context.Context) error {
	var o openResult
	if err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error { return db.open(ctx, t, &o) }); err != nil {
		return err
	}
	db.lease.hold(o.lease, serverOf(o.place))
	if db.dialect.SharedPool {
		return db.noteBeat(o.lease.beat)
	}
	return db.mark.set(o.mark)
}

// openResult is the result of the first transaction.
type openResult struct {
	lease leaseRow
	beat  int64 // the beat of the lease
	mark  restoreMark
	place string
}

func (db *DB) open(ctx context.Context, t *sqlio.Tx, o *openResult) error {
	version, err := db.lockVersion(ctx, t)
	if err != nil {
		return err
	}
	// Before anything is changed.
	if version > 0 {
		if err := db.loadMeta(ctx, t.Rows); err != nil {
			return err
		}
	}
	// Nothing is migrated while another process writes.
	if version >= leaseVersion {
		if err := db.acquire(ctx, t, version, o); err != nil {
			return err
		}
	}
	if err := db.migrate(ctx, t, version); err != nil {
		return err
	}
	if version < leaseVersion {
		if err := db.acquire(ctx, t, version, o); err != nil {
			return err
		}
	}
	if version == 0 {
		if err := db.createMeta(ctx, t); err != nil {
			return err
		}
	}
	if !db.dialect.SharedPool {
		if err := db.rooms.load(ctx, t); err != nil {
			return err
		}
	}
	if err := db.checkRestore(ctx, t, version, o); err != nil || db.cluster == nil {
		return err
	}
	return db.join(ctx, t, o.lease.holder)
}

// prepareReadOnly takes the place of prepare for a database that is only read.
func (db *DB) prepareReadOnly(ctx context.Context) error {
	version, err := db.readVersion(ctx)
	switch {
	case err != nil:
		return err
	case version == 0:
		return fmt.Errorf("%w: there is no database yet", ErrNotFound)
	case version > db.latest():
		return errNewer(version, db.latest())
	case version < db.latest():
		return withHint(errors.New("database is older than this program"), "start the server once")
	}
	return db.loadMeta(ctx, db.reader.Query)
}
