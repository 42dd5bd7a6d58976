package store

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/seal"
)

// TestWrongMasterKey: the database is not opened, not changed, and no key is made (attack 54).
func TestWrongMasterKey(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		save(t, db, acct, dev.ID, everything())
		before := rowCounts(t, db)
		closeDB(t, db)

		sameID := testKey(t, 2)
		other, err := seal.NewKey(testKey(t, 1).key.ID(), bytes.Repeat([]byte{9}, seal.KeySize))
		if err != nil {
			t.Fatal(err)
		}
		sameID.key = other
		for what, keys := range map[string]MasterKeys{
			"none":                     {},
			"another":                  {Current: testKey(t, 2)},
			"others":                   {Current: testKey(t, 2), Old: []MasterKey{testKey(t, 3)}},
			"another with the same ID": {Current: sameID},
		} {
			for _, reading := range []bool{false, true} {
				o := options(t, url)
				o.MasterKeys, o.ReadOnly = keys, reading
				db, err := Open(t.Context(), o)
				if db != nil || !errors.Is(err, ErrMasterKey) {
					t.Errorf("%s: got %v, want ErrMasterKey", what, err)
				}
			}
		}
		o := options(t, url)
		o.MasterKeys = MasterKeys{Current: testKey(t, 2), Old: []MasterKey{testKey(t, 1)}}
		db = open(t, o)
		same(t, "rows", rowCounts(t, db), before)
		acct = must[*Account](t)(db.LookupAccount(t.Context(), alice))
		same(t, "secret", string(must[Secret](t)(db.Secret(t.Context(), acct, "recovery")).Value.Reveal()), "EsTx secret")
	})
}

func TestNewDatabaseNeedsAKey(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		o := options(t, url)
		o.MasterKeys = MasterKeys{Old: []MasterKey{testKey(t, 1)}}
		_, err := Open(t.Context(), o)
		var hint interface{ Hint() string }
		if !errors.Is(err, ErrMasterKey) || !errors.As(err, &hint) || hint.Hint() == "" {
			t.Errorf("got %v, want ErrMasterKey with a hint", err)
		}
		if must[bool](t)(Exists(t.Context(), o.URL)) {
			t.Error("a refused database was made")
		}
	})
}

// TestRotationInterrupted stops a rotation at every statement (attack 56). With both keys
// the database opens at any point; with the new one alone only after the end.
func TestRotationInterrupted(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		const accounts = 450
		db := open(t, options(t, url))
		held := make([]*Account, accounts)
		for i := range held {
			held[i] = must[*Account](t)(db.Account(t.Context(), id.UserID(fmt.Sprintf("@u%d:hs", i))))
		}
		save(t, db, held[7], 0, &Changes{Secrets: []Secret{{Name: "s", Value: []byte("kept")}}})
		closeDB(t, db)

		var h hook
		o := options(t, url)
		o.Wrap = h.wrap
		o.MasterKeys = MasterKeys{Current: testKey(t, 2), Old: []MasterKey{testKey(t, 1)}}
		newOnly := o
		newOnly.MasterKeys.Old = nil
		interrupted := 0
		for n := 0; ; n++ {
			db := open(t, o)
			count := 0
			h.watch(func(s string) error {
				if count++; count > n && s != "ROLLBACK" {
					return errInjected
				}
				return nil
			})
			_, err := db.RotateMasterKey(t.Context())
			h.watch(nil)
			save(t, db, held[7], 0, &Changes{Secrets: []Secret{{Name: "t", Value: []byte("an account in use goes on")}}})
			inUse := must[[]string](t)(db.MasterKeysInUse(t.Context()))
			closeDB(t, db)
			if err == nil {
				same(t, "keys in use", inUse, []string{testKey(t, 2).ID()})
				break
			}
			interrupted++
			if len(inUse) == 1 && inUse[0] == testKey(t, 2).ID() {
				continue // only the last commit's answer was lost
			}
			if db, err := Open(t.Context(), newOnly); !errors.Is(err, ErrMasterKey) {
				t.Fatalf("interrupted at statement %d, opened with the new key alone: %v, %v", n, db, err)
			}
		}
		if interrupted < 5 {
			t.Errorf("interrupted only %d times", interrupted)
		}
		db = open(t, newOnly)
		same(t, "accounts", len(must[[]*Account](t)(db.Accounts(t.Context()))), accounts)
		acct := must[*Account](t)(db.LookupAccount(t.Context(), "@u7:hs"))
		same(t, "secret", string(must[Secret](t)(db.Secret(t.Context(), acct, "s")).Value.Reveal()), "kept")
		same(t, "second rotation", must[int](t)(db.RotateMasterKey(t.Context())), 0)
	})
}

func TestParseMasterKey(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{0xfb}, 32)
	for _, s := range []string{
		base64.StdEncoding.EncodeToString(key), base64.RawStdEncoding.EncodeToString(key), base64.URLEncoding.EncodeToString(key),
		base64.RawURLEncoding.EncodeToString(key), " " + base64.StdEncoding.EncodeToString(key) + "\r\n",
	} {
		k, err := ParseMasterKey(secretString(s))
		if err != nil || k.ID() != testKey(t, 0xfb).ID() {
			t.Errorf("%q: %v, %v", s, k.ID(), err)
		}
	}
	for _, s := range []string{
		"", "AAAA", "correct horse battery staple", base64.StdEncoding.EncodeToString(key[:31]),
		base64.StdEncoding.EncodeToString(append(key, 1)), strings.Repeat("f", 64), "::::",
	} {
		_, err := ParseMasterKey(secretString(s))
		if !errors.Is(err, ErrMasterKey) || s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("%q: got %v, want ErrMasterKey without the text", s, err)
		}
	}
}

func TestLoadOrCreateMasterKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data", "master.key")
	if _, err := LoadOrCreateMasterKey(path, false); !errors.Is(err, ErrMasterKey) {
		t.Errorf("absent, database exists: got %v, want ErrMasterKey", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Fatal("a key was made for an existing database")
	}
	made := must[MasterKey](t)(LoadOrCreateMasterKey(path, true))
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode().Perm(), err)
	}
	for _, fresh := range []bool{true, false} {
		if got := must[MasterKey](t)(LoadOrCreateMasterKey(path, fresh)); got.ID() != made.ID() {
			t.Errorf("read again: %s, want %s", got.ID(), made.ID())
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreateMasterKey(path, false); !errors.Is(err, ErrMasterKey) {
			t.Errorf("mode %o: got %v, want ErrMasterKey", mode, err)
		}
	}
	damaged := filepath.Join(t.TempDir(), "damaged")
	if err := os.WriteFile(damaged, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, fresh := range []bool{true, false} {
		if _, err := LoadOrCreateMasterKey(damaged, fresh); !errors.Is(err, ErrMasterKey) {
			t.Errorf("empty file: got %v, want ErrMasterKey", err)
		}
	}
	if _, err := LoadOrCreateMasterKey(t.TempDir(), true); !errors.Is(err, ErrMasterKey) {
		t.Errorf("directory: got %v, want ErrMasterKey", err)
	}
	if a, b := testKey(t, 1), testKey(t, 2); a.ID() == b.ID() || a.ID() == "" || !(MasterKey{}).IsZero() || (MasterKey{}).ID() != "" {
		t.Error("IDs do not tell keys apart")
	}
}
