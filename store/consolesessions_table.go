package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/seal"
	"e2ee-proxy/store/internal/sqlio"
)

// Sessions of the console are found by a keyed hash of what the browser has, so that the database
// is not worth a session. Whose a session is, and until when, is sealed with that hash, under a
// key of the database: who can write to it can neither make a session nor change one into
// somebody else's. A session belongs to no account: administrators need not have one.

const (
	insertConsoleSession = `INSERT INTO console_sessions (session, owner, seen_at, ends_at, sealed_session, begun_by) VALUES ($1, $2, $3, $4, $5,
		(SELECT d.id FROM devices d JOIN accounts a ON a.id = d.account WHERE a.user_id = $6 AND d.device_id = $7))`
	selectConsoleSession = "SELECT seen_at, ends_at, sealed_session FROM console_sessions WHERE session = $1"
	// A session that was ended meanwhile does not come back.
	updateConsoleSession = "UPDATE console_sessions SET seen_at = $2, ends_at = $3, sealed_session = $4 WHERE session = $1"
	deleteConsoleSession = "DELETE FROM console_sessions WHERE session = $1"
	deleteConsoleOwner   = "DELETE FROM console_sessions WHERE owner = $1"
	pruneConsoleSessions = `DELETE FROM console_sessions WHERE session IN
		(SELECT session FROM console_sessions WHERE ends_at < $1 OR seen_at < $2 ORDER BY session LIMIT 1000)`
)

// ConsoleSession is a person who has signed in to the console.
type ConsoleSession struct {
	UserID id.UserID
	// DeviceID is the device for which the person acts; empty if none was chosen.
	DeviceID id.DeviceID
	// BegunBy is the device whose access token began the session, which ends when that device is
	// deleted; empty if none did.
	BegunBy id.DeviceID
	// SeenAt is when it was last used, EndsAt when it ends however it is used.
	SeenAt, EndsAt time.Time
}

// consoleSession is what of a session is sealed.
type consoleSession struct {
	UserID   id.UserID   `json:"user_id"`
	DeviceID id.DeviceID `json:"device_id,omitempty"`
	BegunBy  id.DeviceID `json:"begun_by,omitempty"`
}

// openConsole derives the key of sessions from the database's root secret.
func (db *DB) openConsole() (*seal.Key, error) {
	keyID, key := db.Hash("console key ID", nil), db.Hash("console sealing key", nil)
	defer clear(key[:])
	return seal.NewKey(seal.ID(keyID[:seal.IDSize]), key[:])
}

func (db *DB) consolePlace(session [32]byte, seen, ends int64) seal.Place {
	return seal.Place{Database: db.id, Table: "console_sessions", Column: "sealed_session", Row: []string{
		hex.EncodeToString(session[:]), strconv.FormatInt(seen, 10), strconv.FormatInt(ends, 10),
	}}
}

func (db *DB) hashConsole(token []byte) [32]byte { return db.Hash("console session", token) }

func (db *DB) hashConsoleOwner(user id.UserID) [32]byte {
	return db.Hash("console session owner", []byte(user))
}

func (db *DB) sealConsole(session [32]byte, s ConsoleSession) ([]byte, error) {
	key, err := db.openConsole()
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(consoleSession{s.UserID, s.DeviceID, s.BegunBy})
	if err != nil {
		return nil, err
	}
	return key.Seal(plain, db.consolePlace(session, sqlio.Micros(s.SeenAt), sqlio.Micros(s.EndsAt))), nil
}

// AddConsoleSession stores a session that begins. token is what the browser gets, random and new.
func (db *DB) AddConsoleSession(ctx context.Context, token []byte, s ConsoleSession) error {
	session, owner := db.hashConsole(token), db.hashConsoleOwner(s.UserID)
	sealed, err := db.sealConsole(session, s)
	if err != nil {
		return fmt.Errorf("seal a session of the console: %w", err)
	}
	return db.changeConsole(ctx, "add", insertConsoleSession, session[:], owner[:], sqlio.Micros(s.SeenAt), sqlio.Micros(s.EndsAt), sealed, s.UserID, s.BegunBy)
}

// ConsoleSession reads a session, or returns [ErrNotFound].
func (db *DB) ConsoleSession(ctx context.Context, token []byte) (ConsoleSession, error) {
	session := db.hashConsole(token)
	var s ConsoleSession
	var sealed []byte
	err := db.reader.Query(ctx, selectConsoleSession, []any{session[:]}, func(r *sql.Rows) error {
		return r.Scan(sqlio.TimeInto(&s.SeenAt), sqlio.TimeInto(&s.EndsAt), &sealed)
	})
	if err == nil && sealed == nil {
		err = ErrNotFound
	}
	if err != nil {
		return ConsoleSession{}, fmt.Errorf("read a session of the console: %w", err)
	}
	key, err := db.openConsole()
	if err != nil {
		return ConsoleSession{}, err
	}
	plain, err := key.Open(sealed, db.consolePlace(session, sqlio.Micros(s.SeenAt), sqlio.Micros(s.EndsAt)))
	if err != nil {
		return ConsoleSession{}, fmt.Errorf("%w: a session of the console: %w", ErrSealed, err)
	}
	var who consoleSession
	if err := json.Unmarshal(plain, &who); err != nil {
		return ConsoleSession{}, fmt.Errorf("%w: a session of the console is damaged", ErrSealed)
	}
	s.UserID, s.DeviceID, s.BegunBy = who.UserID, who.DeviceID, who.BegunBy
	return s, nil
}

// SetConsoleSession stores what has changed of a session, unless it was ended.
func (db *DB) SetConsoleSession(ctx context.Context, token []byte, s ConsoleSession) error {
	session := db.hashConsole(token)
	sealed, err := db.sealConsole(session, s)
	if err != nil {
		return fmt.Errorf("seal a session of the console: %w", err)
	}
	return db.changeConsole(ctx, "change", updateConsoleSession, session[:], sqlio.Micros(s.SeenAt), sqlio.Micros(s.EndsAt), sealed)
}

// EndConsoleSession ends a session, and EndConsoleSessionsOf all of a user.
func (db *DB) EndConsoleSession(ctx context.Context, token []byte) error {
	session := db.hashConsole(token)
	return db.changeConsole(ctx, "end", deleteConsoleSession, session[:])
}

// EndConsoleSessionsOf is described at EndConsoleSession.
func (db *DB) EndConsoleSessionsOf(ctx context.Context, user id.UserID) error {
	owner := db.hashConsoleOwner(user)
	return db.changeConsole(ctx, "end", deleteConsoleOwner, owner[:])
}

// PruneConsoleSessions deletes sessions that ended before now, or were last used before idle.
func (db *DB) PruneConsoleSessions(ctx context.Context, now, idle time.Time) (int64, error) {
	return db.prune(ctx, "sessions of the console", pruneConsoleSessions, sqlio.Micros(now), sqlio.Micros(idle))
}

// endConsoleSessions ends all sessions of a database that was restored: some of them were ended
// after the backup was made.
func (db *DB) endConsoleSessions(ctx context.Context, t *sqlio.Tx) error {
	if _, err := t.Do(ctx, "DELETE FROM console_sessions"); err != nil {
		return fmt.Errorf("end the sessions of the console: %w", err)
	}
	return nil
}

func (db *DB) changeConsole(ctx context.Context, what, text string, params ...any) error {
	err := db.writer.run(ctx, func(ctx context.Context, t *sqlio.Tx) error {
		_, err := t.Do(ctx, text, params...)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s a session of the console: %w", what, err)
	}
	return nil
}
