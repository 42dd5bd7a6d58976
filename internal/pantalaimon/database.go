package pantalaimon

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"

	"e2ee-proxy/internal/secret"
)

// PickleKey is the key under which matrix-nio encrypts pickles unless it is told otherwise,
// and pantalaimon tells it nothing else (nio.ClientConfig.pickle_key).
const PickleKey = "DEFAULT_KEY"

// DatabaseName is the name of the database in pantalaimon's data directory.
const DatabaseName = "pan.db"

// ErrNoDatabase means that there is no pan.db in a directory.
var ErrNoDatabase = errors.New("there is no " + DatabaseName)

// Database is an open pan.db.
type Database struct{ db *sql.DB }

// Device is a device whose keys pantalaimon has. Most of them are its own: it logs in with
// the password that a client logs in with, as another device.
type Device struct {
	row              int64
	UserID, DeviceID string
	// Account is a pickle of libolm.
	Account secret.Bytes
	// Published reports whether the homeserver has the device's keys.
	Published bool
	// Token is the device's access token; empty when it is in the system's keyring, or
	// forgotten.
	Token secret.String
}

// OlmSession is a session of a device with another one.
type OlmSession struct {
	ID, SenderKey string
	Pickle        secret.Bytes
	Created, Used time.Time
}

// RoomKey is an inbound Megolm session.
type RoomKey struct {
	RoomID, SessionID string
	// SenderKey and SigningKey are those of the device that the key is said to be of.
	SenderKey, SigningKey string
	Pickle                secret.Bytes
	// ForwardedBy are the devices that passed it on.
	ForwardedBy []string
}

// Open opens the database in pantalaimon's data directory, for reading.
func Open(ctx context.Context, dir string) (*Database, error) {
	path := filepath.Join(dir, DatabaseName)
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist), err == nil && !info.Mode().IsRegular():
		return nil, ErrNoDatabase
	case err != nil:
		return nil, fmt.Errorf("look for %s: %w", DatabaseName, err)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", DatabaseName, err)
	}
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: "mode=ro&_pragma=query_only(1)&_pragma=busy_timeout(5000)"}
	c, err := sqlite.NewConnector(u.String())
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", DatabaseName, err)
	}
	d := &Database{sql.OpenDB(c)}
	var version int
	if err := d.db.QueryRowContext(ctx, "SELECT version FROM storeversion").Scan(&version); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is no database of pantalaimon: %w", DatabaseName, err), d.Close())
	}
	if version != 2 {
		return nil, errors.Join(fmt.Errorf("%s has format %d, and only 2 is known", DatabaseName, version), d.Close())
	}
	return d, nil
}

// Close closes the database.
func (d *Database) Close() error {
	if err := d.db.Close(); err != nil {
		return fmt.Errorf("close %s: %w", DatabaseName, err)
	}
	return nil
}

// Devices returns the devices of a section, those of a user in the order in which they were
// made.
func (d *Database) Devices(ctx context.Context, server string) ([]Device, error) {
	var all []Device
	err := d.each(ctx, `SELECT a.id, a.user_id, a.device_id, a.account, a.shared, COALESCE(t.token, '') FROM accounts a
		LEFT JOIN accesstokens t ON t.account_id = a.id
		WHERE a.user_id IN (SELECT u.user_id FROM serverusers u JOIN servers s ON s.id = u.server_id WHERE s.name = ?)
		ORDER BY a.user_id, a.id`, []any{server}, func(r *sql.Rows) error {
		var dev Device
		var account []byte
		var token string
		if err := r.Scan(&dev.row, &dev.UserID, &dev.DeviceID, &account, &dev.Published, &token); err != nil {
			return err //nolint:wrapcheck // each says what was read
		}
		dev.Account, dev.Token = account, secret.NewString(token)
		all = append(all, dev)
		return nil
	})
	return all, err
}

// OlmSessions returns the sessions of a device.
func (d *Database) OlmSessions(ctx context.Context, of Device) ([]OlmSession, error) {
	var all []OlmSession
	err := d.each(ctx, `SELECT session_id, sender_key, session, creation_time, last_usage_date FROM olmsessions
		WHERE account_id = ? ORDER BY last_usage_date`, []any{of.row}, func(r *sql.Rows) error {
		var s OlmSession
		var pickle []byte
		var created, used string
		if err := r.Scan(&s.ID, &s.SenderKey, &pickle, &created, &used); err != nil {
			return err //nolint:wrapcheck // each says what was read
		}
		s.Pickle, s.Created, s.Used = pickle, readTime(created), readTime(used)
		all = append(all, s)
		return nil
	})
	return all, err
}

// RoomKeys iterates over the inbound Megolm sessions of a device. It stops at the first
// error.
func (d *Database) RoomKeys(ctx context.Context, of Device) iter.Seq2[RoomKey, error] {
	return func(yield func(RoomKey, error) bool) {
		for last := ""; ; {
			var some []RoomKey
			err := d.each(ctx, `SELECT session_id, room_id, sender_key, fp_key, session FROM megolminboundsessions
				WHERE account_id = ? AND session_id > ? ORDER BY session_id LIMIT 500`, []any{of.row, last}, func(r *sql.Rows) error {
				var k RoomKey
				var pickle []byte
				err := r.Scan(&k.SessionID, &k.RoomID, &k.SenderKey, &k.SigningKey, &pickle)
				k.Pickle, last = pickle, k.SessionID
				some = append(some, k)
				return err //nolint:wrapcheck // each says what was read
			})
			if err == nil && len(some) > 0 {
				err = d.forwards(ctx, some)
			}
			if err != nil {
				yield(RoomKey{}, err)
				return
			}
			for _, k := range some {
				if !yield(k, nil) {
					return
				}
			}
			if len(some) == 0 {
				return
			}
		}
	}
}

// forwards adds who passed the keys on. They stand in the order of their IDs.
func (d *Database) forwards(ctx context.Context, keys []RoomKey) error {
	byID := make(map[string]*RoomKey, len(keys))
	for i := range keys {
		byID[keys[i].SessionID] = &keys[i]
	}
	return d.each(ctx, "SELECT session_id, sender_key FROM forwardedchains WHERE session_id >= ? AND session_id <= ? ORDER BY id",
		[]any{keys[0].SessionID, keys[len(keys)-1].SessionID}, func(r *sql.Rows) error {
			var session, by string
			if err := r.Scan(&session, &by); err != nil {
				return err //nolint:wrapcheck // each says what was read
			}
			if k := byID[session]; k != nil {
				k.ForwardedBy = append(k.ForwardedBy, by)
			}
			return nil
		})
}

// EncryptedRooms returns the rooms that a device knew to be encrypted.
func (d *Database) EncryptedRooms(ctx context.Context, of Device) (rooms []string, err error) {
	err = d.each(ctx, "SELECT room_id FROM encryptedrooms WHERE account_id = ? ORDER BY room_id", []any{of.row}, func(r *sql.Rows) error {
		var room string
		err := r.Scan(&room)
		rooms = append(rooms, room)
		return err //nolint:wrapcheck // each says what was read
	})
	return rooms, err
}

// each calls f for every row of a query.
func (d *Database) each(ctx context.Context, query string, args []any, f func(*sql.Rows) error) (err error) {
	rows, err := d.db.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("read %s: %w", DatabaseName, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := f(rows); err != nil {
			return fmt.Errorf("read %s: %w", DatabaseName, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read %s: %w", DatabaseName, err)
	}
	return nil
}

// readTime reads a time as nio writes it, in the time zone of the machine; zero if it is
// none.
func readTime(s string) time.Time {
	t, err := time.ParseInLocation("2006-01-02 15:04:05.999999", s, time.Local)
	if err != nil {
		return time.Time{}
	}
	return t
}
