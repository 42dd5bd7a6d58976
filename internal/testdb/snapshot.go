package testdb

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"e2ee-proxy/internal/fileplace"

	_ "modernc.org/sqlite" // the driver
)

// Snapshot is the content of a closed SQLite database of the store.
type Snapshot struct {
	data, mark []byte
}

// Take reads the files of a closed database.
func Take(path string) (s Snapshot, err error) {
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, fs.ErrNotExist) {
		return Snapshot{}, errors.New("the database is still open")
	}
	if s.data, err = os.ReadFile(path); err != nil {
		return Snapshot{}, err
	}
	s.mark, err = os.ReadFile(path + "-mark")
	return s, err
}

// Put makes a database from it that has never been anywhere else, so that it is not taken
// for one that was restored from a backup.
func (s Snapshot) Put(path string) error {
	if err := os.WriteFile(path, s.data, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(path+"-mark", s.mark, 0o600); err != nil {
		return err
	}
	place, err := fileplace.Of(path)
	if err != nil {
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
