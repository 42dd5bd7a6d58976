package store

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestExists(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		o := options(t, url)
		if must[bool](t)(Exists(t.Context(), o.URL)) {
			t.Error("it exists before it was made")
		}
		db := open(t, o)
		if !must[bool](t)(Exists(t.Context(), o.URL)) {
			t.Error("it does not exist while it is open")
		}
		closeDB(t, db)
		if !must[bool](t)(Exists(t.Context(), o.URL)) {
			t.Error("it does not exist after it was closed")
		}
	})
	path := filepath.Join(t.TempDir(), "none", "e2ee.db")
	if must[bool](t)(Exists(t.Context(), secretString("sqlite:"+path))) {
		t.Error("a file that is not there exists")
	}
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("looking made a directory")
	}
}

func TestBadURLs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, url := range []string{
		"", "sqlite", "sqlite:", "mysql://u:hunter2@h/d", dir, "sqlite:" + dir,
		"postgres://u:hunter2@h:port/d", "postgres://u:hunter2@127.0.0.1:1/d?connect_timeout=1", "sqlite:/dev/null",
	} {
		db, err := Open(t.Context(), options(t, url))
		if err == nil {
			closeDB(t, db)
			t.Errorf("%q was opened", url)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the password is in the error: %v", url, err)
		}
	}
}

func TestStrangePaths(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"with space", "q?uery#frag", "per%20cent", "a&b=c", "ünï"} {
		path := filepath.Join(t.TempDir(), name, "e2ee.db")
		db := open(t, options(t, "sqlite:"+path))
		device(t, db, alice, "A")
		closeDB(t, db)
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%q: the database is not where it should be: %v", name, err)
		}
	}
}

func TestFilesAreTheOwnersOnly(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		return
	}
	dir := filepath.Join(t.TempDir(), "data")
	db := open(t, options(t, "sqlite:"+filepath.Join(dir, "e2ee.db")))
	device(t, db, alice, "A")
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v, want 0600", f.Name(), info.Mode().Perm(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: mode %v, %v, want 0700", info.Mode().Perm(), err)
	}
}

func TestOneProcessWritesToASQLiteDatabase(t *testing.T) {
	t.Parallel()
	o := options(t, liteURL(t))
	db := open(t, o)
	if _, err := Open(t.Context(), o); !errors.Is(err, ErrInUse) {
		t.Errorf("opened a second time: got %v, want ErrInUse", err)
	}
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(pathOf(o.URL.Reveal()), link); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), options(t, "sqlite:"+link)); !errors.Is(err, ErrInUse) {
		t.Errorf("opened under another name: got %v, want ErrInUse", err)
	}
	// The attempts above must not have given away the claim: another process tries.
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), killURL+"="+o.URL.Reveal())
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), ErrInUse.Error()) {
		t.Errorf("another process: %v: %s", err, out)
	}
	closeDB(t, db)
	closeDB(t, open(t, o))
}

// TestReadingBesideTheServer is what "e2ee-proxy recovery-key" does.
func TestReadingBesideTheServer(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		o := options(t, url)
		reading := o
		reading.ReadOnly = true
		if _, err := Open(t.Context(), reading); !errors.Is(err, ErrNotFound) {
			t.Errorf("before there is a database: got %v, want ErrNotFound", err)
		}
		db := open(t, o)
		acct, dev := device(t, db, alice, "A")
		beside := open(t, reading)
		save(t, db, acct, dev.ID, everything())
		seen := must[*Account](t)(beside.LookupAccount(t.Context(), alice))
		same(t, "secret", must[Secret](t)(beside.Secret(t.Context(), seen, "recovery")), everything().Secrets[0])
		if err := beside.Save(t.Context(), seen, dev.ID, everything()); !errors.Is(err, ErrReadOnly) {
			t.Errorf("writing: got %v, want ErrReadOnly", err)
		}
		if err := beside.Ping(t.Context()); err != nil {
			t.Error(err)
		}
		closeDB(t, beside)
		save(t, db, acct, dev.ID, &Changes{Seen: []SeenMessage{{Digest: [32]byte{9}}}})
		closeDB(t, db)
		db = open(t, o)
		same(t, "taken for restored", db.Restored(), "")
	})
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		o := options(t, url)
		db := open(t, o)
		device(t, db, alice, "A")
		raw(t, db, "UPDATE schema_version SET version = $1", db.latest()+1)
		closeDB(t, db)
		for _, reading := range []bool{false, true} {
			o.ReadOnly = reading
			if _, err := Open(t.Context(), o); !errors.Is(err, ErrNewer) {
				t.Errorf("read only %v: got %v, want ErrNewer", reading, err)
			}
		}
	})
}

func TestDamagedDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	for _, damage := range []string{
		"DELETE FROM meta", "DELETE FROM schema_version", "UPDATE schema_version SET version = -1", "DELETE FROM restore_mark",
		"UPDATE meta SET sealed_root = (SELECT sealed_key FROM accounts)", "UPDATE meta SET database_id = 'x'", "DROP TABLE meta",
	} {
		onBoth(t, func(t *testing.T, url string) {
			db := open(t, options(t, url))
			device(t, db, alice, "A")
			raw(t, db, damage)
			before := rowCounts(t, db)
			closeDB(t, db)
			if _, err := Open(t.Context(), options(t, url)); err == nil {
				t.Errorf("%s: it was opened", damage)
			}
			if len(before) == 0 {
				t.Error("no tables")
			}
		})
	}
	path := filepath.Join(t.TempDir(), "e2ee.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), options(t, "sqlite:"+path)); err == nil {
		t.Error("another file was opened")
	}
}
