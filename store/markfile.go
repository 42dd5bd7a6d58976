package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// markFormat is the whole content of a mark file. Its length is constant, so that writing
// it again never leaves a part of the former content.
const markFormat = "e2ee-proxy restore mark 1\n%32s\n%020d\nDo not restore this file with a backup of the database.\n"

// markFile is the file beside a SQLite database by which an older database is recognised;
// see restore.go.
type markFile struct {
	f       *os.File
	found   restoreMark // when the database was opened
	present bool
	now     restoreMark
}

func openMark(path string) (*markFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the path is the operator's
	if err != nil {
		return nil, fmt.Errorf("open restore mark: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("open restore mark: %w", err), f.Close())
	}
	m := &markFile{f: f}
	text := make([]byte, 256)
	n, err := f.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("read restore mark: %w", err), f.Close())
	}
	_, err = fmt.Sscanf(string(text[:n]), "e2ee-proxy restore mark 1\n%s\n%d\n", &m.found.incarnation, &m.found.generation)
	m.present = err == nil // a damaged mark counts as none
	return m, nil
}

// contradicts returns why a database with this mark in it is not the one that wrote the
// file; empty if it may be.
func (m *markFile) contradicts(in restoreMark) string {
	switch {
	case !m.present:
		return "the restore mark beside the database is missing"
	case m.found.incarnation != in.incarnation:
		return "the restore mark beside the database belongs to another copy of it"
	case m.found.generation > in.generation:
		return "the database is older than the restore mark beside it"
	default:
		return ""
	}
}

// set writes the mark durably.
func (m *markFile) set(to restoreMark) error {
	m.now = to
	if err := m.write(); err != nil {
		return err
	}
	if err := m.f.Sync(); err != nil {
		return fmt.Errorf("sync restore mark: %w", err)
	}
	return nil
}

// advance writes the generation of a committed transaction. It does not wait for the disk:
// a mark that is too low after a power loss does no harm.
func (m *markFile) advance(generation int64) error {
	m.now.generation = generation
	return m.write()
}

func (m *markFile) write() error {
	if _, err := m.f.WriteAt(fmt.Appendf(nil, markFormat, m.now.incarnation, m.now.generation), 0); err != nil {
		return fmt.Errorf("write restore mark: %w", err)
	}
	return nil
}

func (m *markFile) close() error {
	return errors.Join(m.f.Sync(), m.f.Close())
}

// markedBeat returns the lease's beat of this database in the file beside the master key, 0
// for none: this machine may never have run it.
func (db *DB) markedBeat() int64 {
	if db.beatFile == nil || !db.beatFile.present || db.beatFile.found.incarnation != db.id {
		return 0
	}
	return db.beatFile.found.generation
}

// noteBeat writes the lease's beat to that file.
func (db *DB) noteBeat(beat int64) error {
	if db.beatFile == nil {
		return nil
	}
	if db.beatFile.now.incarnation != db.id {
		return db.beatFile.set(restoreMark{incarnation: db.id, generation: beat})
	}
	if beat <= db.beatFile.now.generation {
		return nil // an older database must not make the file forget that it is older
	}
	return db.beatFile.advance(beat)
}
