package testdb

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"e2ee-proxy/internal/fileplace"

	_ "modernc.org/sqlite" // the driver
)

// Snapshot is what a SQLite database of the store held when it was closed.
type Snapshot struct {
	data, mark []byte
	place      string // where it lay
}

// Take reads the files of a closed database.
func Take(path string) (s Snapshot, err error) {
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, fs.ErrNotExist) {
		return Snapshot{}, errors.New("the database is still open")
	}
	if s.data, err = os.ReadFile(path); err != nil {
		return Snapshot{}, err
	}
	if s.mark, err = os.ReadFile(path + "-mark"); err != nil {
		return Snapshot{}, err
	}
	s.place, err = fileplace.Of(path)
	return s, err
}

// Put makes a database of it that has never lain anywhere else, so that it is not taken
// for one that was restored from a backup.
func (s Snapshot) Put(path string) error {
	if err := os.WriteFile(path+"-mark", s.mark, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	place, err := fileplace.Of(path)
	if err != nil {
		return err
	}
	// To open it costs more than all else, and is seldom needed.
	if len(place) == len(s.place) && bytes.Count(s.data, []byte(s.place)) == 1 {
		return os.WriteFile(path, bytes.Replace(s.data, []byte(s.place), []byte(place), 1), 0o600)
	}
	if err := os.WriteFile(path, s.data, 0o600); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	if _, err = db.Exec("UPDATE restore_mark SET place = $1", place); err != nil {
		err = fmt.Errorf("move the restore mark: %w", err)
	}
	return errors.Join(err, db.Close())
}
