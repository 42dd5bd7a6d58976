package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"e2ee-proxy/config"
)

// masterKeyFile is the generated key, below the data directory.
const masterKeyFile = "master.key"

// sqlitePath is where the SQLite database is; empty with PostgreSQL.
func sqlitePath(c *config.Config) string {
	url := c.Database.URL.Reveal()
	if url == "" {
		return filepath.Join(c.Data, "e2ee-proxy.db")
	}
	path, isSQLite := strings.CutPrefix(url, "sqlite:")
	if !isSQLite {
		return ""
	}
	return path
}

// prepareData creates the data directory, readable by its owner only.
func prepareData(c *config.Config) error {
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return &failure{exitStore, fmt.Errorf("create the data directory: %w", err), "name another directory with --data, or make this one writable"}
	}
	return nil
}

// masterKey gives the configured key, or the one kept under the data directory, which
// it generates when there is no database yet. Beside a database a missing key is an
// error: a new key could open nothing and would only hide the loss.
func masterKey(c *config.Config, mayGenerate bool) (config.Key, error) {
	if !c.MasterKey.Key.IsZero() {
		return c.MasterKey.Key, nil
	}
	path := filepath.Join(c.Data, masterKeyFile)
	key, err := readMasterKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if _, err := os.Stat(sqlitePath(c)); !errors.Is(err, fs.ErrNotExist) {
		return config.Key{}, &failure{exitStore, fmt.Errorf("there is a database but its master key is missing: %s", path),
			"put the key back from where it was backed up, or set master_key.key_file; without it the database cannot be read"}
	}
	if !mayGenerate {
		return config.Key{}, &failure{exitStore, fmt.Errorf("there is neither a master key nor a database in %s", c.Data),
			"point --data at the data directory of the running proxy"}
	}
	if err := writeMasterKey(path); err != nil {
		return config.Key{}, &failure{exitStore, fmt.Errorf("generate the master key: %w", err), "make the data directory writable, or set master_key.key_file"}
	}
	return readMasterKey(path)
}

func readMasterKey(path string) (config.Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return config.Key{}, fmt.Errorf("read the master key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return config.Key{}, &failure{exitStore, fmt.Errorf("others may read the master key %s", path), "chmod 600 " + path}
	}
	text, err := os.ReadFile(path) //nolint:gosec // G304: the path is the administrator's data directory
	if err != nil {
		return config.Key{}, &failure{exitStore, fmt.Errorf("read the master key: %w", err), "make it readable for the user the proxy runs as"}
	}
	var key config.Key
	err = key.UnmarshalText(text)
	clear(text)
	if err != nil || key.IsZero() {
		return config.Key{}, &failure{exitStore, fmt.Errorf("%s does not contain a master key", path),
			"put the key back from where it was backed up: 32 bytes in base64"}
	}
	return key, nil
}

// writeMasterKey makes a new key that is on the disk, whole, before it has its name,
// and never replaces one that another process made meanwhile.
func writeMasterKey(path string) error {
	raw := make([]byte, config.KeySize)
	if _, err := rand.Read(raw); err != nil {
		return fmt.Errorf("read random bytes: %w", err)
	}
	text := append(base64.StdEncoding.AppendEncode(nil, raw), '\n')
	defer clear(text)
	defer clear(raw)
	tmp, err := os.CreateTemp(filepath.Dir(path), masterKeyFile+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Link(tmp.Name(), path)
	}
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	return errors.Join(err, os.Remove(tmp.Name()), syncDir(filepath.Dir(path)))
}

func syncDir(path string) error {
	dir, err := os.Open(path) //nolint:gosec // G304: the path is the administrator's data directory
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
