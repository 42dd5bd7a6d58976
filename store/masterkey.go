package store

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"e2ee-proxy/internal/seal"
	"e2ee-proxy/internal/secret"
)

// MasterKey wraps the keys of the accounts. Its ID is derived from the key, so that no two
// keys can be confused; the ID reveals nothing of the key.
type MasterKey struct{ key *seal.Key }

// MasterKeys are the keys a database is opened with. New keys are wrapped with Current;
// Old are those that may still be in use, see [DB.RotateMasterKey].
type MasterKeys struct {
	Current MasterKey
	Old     []MasterKey
}

// IsZero reports whether there is no key.
func (k MasterKey) IsZero() bool { return k.key == nil }

// ID returns the name of the key. It is not secret.
func (k MasterKey) ID() string {
	if k.key == nil {
		return ""
	}
	return k.key.ID().String()
}

// NewMasterKey makes a MasterKey of 32 random bytes.
func NewMasterKey(raw secret.Bytes) (MasterKey, error) {
	if len(raw) != seal.KeySize {
		return MasterKey{}, fmt.Errorf("%w: want %d bytes, have %d", ErrMasterKey, seal.KeySize, len(raw))
	}
	id, err := hkdf.Key(sha256.New, raw.Reveal(), nil, "e2ee-proxy master key ID", seal.IDSize)
	if err != nil {
		return MasterKey{}, fmt.Errorf("derive master key ID: %w", err)
	}
	wrap, err := hkdf.Key(sha256.New, raw.Reveal(), nil, "e2ee-proxy master key wrapping", seal.KeySize)
	if err != nil {
		return MasterKey{}, fmt.Errorf("derive master key: %w", err)
	}
	defer clear(wrap)
	key, err := seal.NewKey(seal.ID(id), wrap)
	return MasterKey{key: key}, err
}

// ParseMasterKey reads a master key as an operator writes it: 32 bytes in base64, such as
// "openssl rand -base64 32" prints.
func ParseMasterKey(text secret.String) (MasterKey, error) {
	s := strings.TrimRight(strings.TrimSpace(text.Reveal()), "=")
	enc := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.RawURLEncoding
	}
	raw, err := enc.DecodeString(s)
	if err != nil || len(raw) != seal.KeySize {
		return MasterKey{}, withHint(fmt.Errorf("%w: not %d bytes in base64", ErrMasterKey, seal.KeySize),
			"make one with: openssl rand -base64 32")
	}
	defer clear(raw)
	return NewMasterKey(raw)
}

// LoadOrCreateMasterKey reads the master key from a file. It makes the file, readable by
// its owner only, if it does not exist and the database is new (see [Exists]); a missing
// key of an existing database is an error, because a new one could open nothing.
func LoadOrCreateMasterKey(path string, newDatabase bool) (MasterKey, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && newDatabase:
		return createMasterKey(path)
	case errors.Is(err, fs.ErrNotExist):
		return MasterKey{}, withHint(fmt.Errorf("%w: there is a database, but not the file %s", ErrMasterKey, path),
			"put the file back, or give the key in the configuration; without it the database cannot be read")
	case err != nil:
		return MasterKey{}, fmt.Errorf("look for master key: %w", err)
	case !info.Mode().IsRegular():
		return MasterKey{}, fmt.Errorf("%w: %s is not a file", ErrMasterKey, path)
	case info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows":
		return MasterKey{}, withHint(fmt.Errorf("%w: others may read %s", ErrMasterKey, path), "chmod 600 "+path)
	}
	text, err := os.ReadFile(path) //nolint:gosec // the path is the operator's
	if err != nil {
		return MasterKey{}, fmt.Errorf("read master key: %w", err)
	}
	defer clear(text)
	key, err := ParseMasterKey(secret.NewString(string(text)))
	if err != nil && newDatabase {
		return MasterKey{}, withHint(fmt.Errorf("read %s: %w", path, err), "nothing was sealed with it yet: delete it")
	}
	if err != nil {
		return MasterKey{}, fmt.Errorf("read %s: %w", path, err)
	}
	return key, nil
}

func createMasterKey(path string) (_ MasterKey, err error) {
	raw := make(secret.Bytes, seal.KeySize)
	_, _ = rand.Read(raw) // crypto/rand never returns an error
	defer raw.Wipe()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return MasterKey{}, fmt.Errorf("create master key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the path is the operator's
	if err != nil {
		return MasterKey{}, fmt.Errorf("create master key: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteString(base64.StdEncoding.EncodeToString(raw) + "\n"); err != nil {
		return MasterKey{}, fmt.Errorf("write master key: %w", err)
	}
	// Nothing may be sealed with a key that a power loss could delete.
	if err := f.Sync(); err != nil {
		return MasterKey{}, fmt.Errorf("write master key: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return MasterKey{}, fmt.Errorf("write master key: %w", err)
	}
	return NewMasterKey(raw)
}

// syncDir makes the names in a directory durable, where the system can do that.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir) //nolint:gosec // the path is the operator's
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
