package store

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

func pathOf(url string) string { return strings.TrimPrefix(url, "sqlite:") }

// copyFiles copies database and mark, as a backup of the data directory does.
func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", suffixMark} {
		content, err := os.ReadFile(from + suffix)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+suffix, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// use fills a database and gives back what its outbound session was.
func use(t *testing.T, url string, messages uint32) {
	t.Helper()
	db := open(t, options(t, url))
	acct := must[*Account](t)(db.Account(t.Context(), alice))
	dev, err := db.Device(t.Context(), acct, "A")
	c := &Changes{}
	if errors.Is(err, ErrNotFound) {
		_, dev = device(t, db, alice, "A")
		c = everything()
	}
	c.OutboundSessions = []OutboundSession{{RoomID: "!r1", SessionID: "x1", Pickle: []byte("p"), Messages: messages, CreatedAt: at(1)}}
	save(t, db, acct, dev.ID, c)
	closeDB(t, db)
}

// checkRestored opens a database and sees whether it is taken for restored, with all that
// follows from it.
func checkRestored(t *testing.T, url string, want bool) {
	t.Helper()
	db := open(t, options(t, url))
	defer closeDB(t, db)
	if got := db.Restored() != ""; got != want {
		t.Errorf("taken for restored: %q, want %v", db.Restored(), want)
	}
	acct := must[*Account](t)(db.LookupAccount(t.Context(), alice))
	dev := must[Device](t)(db.Device(t.Context(), acct, "A"))
	_, err := db.OutboundSession(t.Context(), acct, dev.ID, "!r1")
	olm := must[map[string][]OlmSession](t)(db.OlmSessions(t.Context(), acct, dev.ID, []string{"curveA"}))
	shares := must[[]Share](t)(db.Shares(t.Context(), acct, dev.ID, "x1"))
	if want {
		if !errors.Is(err, ErrNotFound) || len(olm) != 0 || len(shares) != 0 || !dev.Restored {
			t.Errorf("outbound state was not discarded: %v, %d Olm, %d shares, marked %v", err, len(olm), len(shares), dev.Restored)
		}
	} else if err != nil || len(olm) == 0 || len(shares) == 0 || dev.Restored {
		t.Errorf("outbound state was lost: %v, %d Olm, %d shares, marked %v", err, len(olm), len(shares), dev.Restored)
	}
	in := must[map[SessionRef]InboundSession](t)(db.InboundSessions(t.Context(), acct, dev.ID, []SessionRef{ref("!r1", "m1")}))
	same(t, "inbound sessions and outbox", []int{len(in), len(must[[]OutboxItem](t)(db.Outbox(t.Context(), acct, dev.ID)))}, []int{1, 2})
}

// checkOnce is like checkRestored: a restore must be noticed once and not again.
func checkOnce(t *testing.T, url string) {
	t.Helper()
	checkRestored(t, url, true)
	db := open(t, options(t, url))
	defer closeDB(t, db)
	same(t, "opened again", db.Restored(), "")
}

// TestRestartIsNotARestore: rooms are not rotated by a restart (requirement 9.8).
func TestRestartIsNotARestore(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		use(t, url, 1)
		checkRestored(t, url, false)
		use(t, url, 2)
		checkRestored(t, url, false)
	})
}

// TestMovedDirectoryIsNotARestore holds on one file system, where moving keeps the inode.
func TestMovedDirectoryIsNotARestore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	use(t, "sqlite:"+filepath.Join(dir, "a", "e2ee.db"), 1)
	if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	checkRestored(t, "sqlite:"+filepath.Join(dir, "b", "e2ee.db"), false)
}

// TestRestoredDatabaseDiscardsOutboundState is attack 55, one way of restoring at a time.
func TestRestoredDatabaseDiscardsOutboundState(t *testing.T) {
	t.Parallel()
	for what, restore := range map[string]func(t *testing.T, backup, live string){
		"the database alone, beside the newer mark": func(t *testing.T, backup, live string) {
			content, err := os.ReadFile(backup)
			if err != nil {
				t.Fatal(err)
			}
			// Written into the living file: inode and time of birth stay.
			if err := os.WriteFile(live, content, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"the mark is gone": func(t *testing.T, _, live string) {
			if err := os.Remove(live + suffixMark); err != nil {
				t.Fatal(err)
			}
		},
		"the mark is damaged": func(t *testing.T, _, live string) {
			if err := os.WriteFile(live+suffixMark, []byte("e2ee-proxy rest"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"the mark of another database": func(t *testing.T, backup, live string) {
			other := filepath.Join(filepath.Dir(backup), "other.db")
			use(t, "sqlite:"+other, 1)
			content, err := os.ReadFile(other + suffixMark)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(live+suffixMark, content, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"the whole directory, into new files": func(t *testing.T, backup, live string) {
			if runtime.GOOS != "linux" {
				return
			}
			if err := os.RemoveAll(filepath.Dir(live)); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Dir(live), 0o700); err != nil {
				t.Fatal(err)
			}
			copyFiles(t, backup, live)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			live := filepath.Join(t.TempDir(), "data", "e2ee.db")
			backup := filepath.Join(t.TempDir(), "backup.db")
			use(t, "sqlite:"+live, 1)
			copyFiles(t, live, backup)
			use(t, "sqlite:"+live, 2)
			if what == "the whole directory, into new files" && runtime.GOOS != "linux" {
				return
			}
			restore(t, backup, live)
			checkOnce(t, "sqlite:"+live)
		})
	}
}

func TestCopyIsARestore(t *testing.T) {
	t.Parallel()
	live, elsewhere := liteURL(t), liteURL(t)
	use(t, live, 1)
	if err := os.Link(pathOf(live), pathOf(elsewhere)); err != nil {
		t.Fatal(err)
	}
	checkOnce(t, elsewhere) // the same file, but no mark beside it
}

func TestRestoredPostgreSQL(t *testing.T) {
	t.Parallel()
	t.Run("copied database", func(t *testing.T) {
		t.Parallel()
		url := postgres.Database(t)
		use(t, url, 1)
		checkOnce(t, postgres.Copy(t, url))
		checkRestored(t, url, false)
	})
	t.Run("restored table", func(t *testing.T) {
		t.Parallel()
		url := postgres.Database(t)
		use(t, url, 1)
		db := open(t, options(t, url))
		raw(t, db, "CREATE TABLE dump AS SELECT * FROM restore_mark")
		raw(t, db, "DROP TABLE restore_mark")
		raw(t, db, "ALTER TABLE dump RENAME TO restore_mark")
		closeDB(t, db)
		checkOnce(t, url)
	})
}

func TestDiscardOutboundState(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := fill(t, db)
		if err := db.DiscardOutboundState(t.Context()); err != nil {
			t.Fatal(err)
		}
		counts := rowCounts(t, db)
		for table, want := range map[string]int{
			"outbound_sessions": 0, "shares": 0, "share_lists": 0, "olm_sessions": 0, "olm_steps": 0, "inbound_sessions": 9, "devices": 3, "transactions": 3, "message_indices": 6,
		} {
			same(t, table, counts[table], want)
		}
		d := must[Device](t)(db.Device(t.Context(), acct, "A"))
		same(t, "marked", d.Restored, true)
		d.Restored = false
		save(t, db, acct, dev, &Changes{Device: &d})
		same(t, "cleared", must[Device](t)(db.Device(t.Context(), acct, "A")).Restored, false)
		// The next session of the room may be saved, however far the old one was.
		save(t, db, acct, dev, &Changes{OutboundSessions: []OutboundSession{{RoomID: "!r1", SessionID: "n", Pickle: []byte("p"), CreatedAt: time.Unix(1, 0)}}})
		same(t, "new session", must[OutboundSession](t)(db.OutboundSession(t.Context(), acct, dev, "!r1")).SessionID, id.SessionID("n"))
	})
}
