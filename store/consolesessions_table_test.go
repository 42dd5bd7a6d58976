package store

import (
	"errors"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"
)

func consoleFixture() ConsoleSession {
	return ConsoleSession{UserID: alice, DeviceID: "A", SeenAt: at(10), EndsAt: at(100)}
}

// A session is read as it was stored, changed, and ended: for good, alone or with all of its owner.
func TestConsoleSessions(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db, ctx := open(t, options(t, url)), t.Context()
		first, second, other := []byte("first token"), []byte("second token"), []byte("other token")
		s := consoleFixture()
		for token, user := range map[string]id.UserID{string(first): alice, string(second): alice, string(other): "@bob:hs"} {
			one := s
			one.UserID = user
			if err := db.AddConsoleSession(ctx, []byte(token), one); err != nil {
				t.Fatal(err)
			}
		}
		same(t, "session", must[ConsoleSession](t)(db.ConsoleSession(ctx, first)), s)
		s.SeenAt, s.DeviceID = at(20), "B"
		if err := db.SetConsoleSession(ctx, first, s); err != nil {
			t.Fatal(err)
		}
		same(t, "changed session", must[ConsoleSession](t)(db.ConsoleSession(ctx, first)), s)
		if err := db.EndConsoleSession(ctx, first); err != nil {
			t.Fatal(err)
		}
		if err := db.SetConsoleSession(ctx, first, s); err != nil { // by a request that was under way
			t.Fatal(err)
		}
		wantNoSession(t, db, first)
		wantNoSession(t, db, []byte("never given out"))
		if err := db.EndConsoleSessionsOf(ctx, alice); err != nil {
			t.Fatal(err)
		}
		wantNoSession(t, db, second)
		same(t, "owner", must[ConsoleSession](t)(db.ConsoleSession(ctx, other)).UserID, id.UserID("@bob:hs"))
	})
}

// Attack: a session that was begun with the token of a device goes on when the device is logged out, or
// comes back with another of the same ID; or one goes on when its account was closed.
func TestConsoleSessionEndsWithItsDevice(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db, ctx := open(t, options(t, url)), t.Context()
		acct, dev := device(t, db, alice, "A")
		device(t, db, "@bob:hs", "A")
		add := func(token string, user id.UserID, by id.DeviceID) {
			t.Helper()
			if err := db.AddConsoleSession(ctx, []byte(token), ConsoleSession{UserID: user, BegunBy: by, SeenAt: at(10), EndsAt: at(100)}); err != nil {
				t.Fatal(err)
			}
		}
		add("by A", alice, "A")
		add("by password", alice, "")
		add("bob's", "@bob:hs", "A")
		same(t, "begun by", must[ConsoleSession](t)(db.ConsoleSession(ctx, []byte("by A"))).BegunBy, id.DeviceID("A"))
		if err := db.DeleteDevice(ctx, acct, dev.ID); err != nil {
			t.Fatal(err)
		}
		device(t, db, alice, "A")
		wantNoSession(t, db, []byte("by A"))
		must[ConsoleSession](t)(db.ConsoleSession(ctx, []byte("by password")))
		if err := db.DeleteAccount(ctx, acct); err != nil {
			t.Fatal(err)
		}
		wantNoSession(t, db, []byte("by password"))
		must[ConsoleSession](t)(db.ConsoleSession(ctx, []byte("bob's")))
	})
}

func wantNoSession(t *testing.T, db *DB, token []byte) {
	t.Helper()
	if s, err := db.ConsoleSession(t.Context(), token); !errors.Is(err, ErrNotFound) {
		t.Errorf("got a session of %s, %v", s.UserID, err)
	}
}

// What has ended, and what nobody used for long, is deleted.
func TestPruneConsoleSessions(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db, ctx := open(t, options(t, url)), t.Context()
		for token, times := range map[string][2]time.Time{"kept": {at(50), at(100)}, "ended": {at(50), at(59)}, "idle": {at(29), at(100)}} {
			if err := db.AddConsoleSession(ctx, []byte(token), ConsoleSession{UserID: alice, SeenAt: times[0], EndsAt: times[1]}); err != nil {
				t.Fatal(err)
			}
		}
		same(t, "pruned", must[int64](t)(db.PruneConsoleSessions(ctx, at(60), at(30))), int64(2))
		must[ConsoleSession](t)(db.ConsoleSession(ctx, []byte("kept")))
		wantNoSession(t, db, []byte("ended"))
		wantNoSession(t, db, []byte("idle"))
	})
}

// Attack: somebody who can write to the database, and has signed in to the console as themselves,
// makes their session that of somebody else, or one that never ends.
func TestConsoleSessionCannotBeChangedInTheDatabase(t *testing.T) {
	t.Parallel()
	for name, statement := range map[string]string{
		"another's":   "UPDATE console_sessions SET sealed_session = (SELECT sealed_session FROM console_sessions WHERE ends_at = 200000000)",
		"never ends":  "UPDATE console_sessions SET ends_at = ends_at + 1000000",
		"always used": "UPDATE console_sessions SET seen_at = seen_at + 1000000",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t, options(t, liteURL(t)))
			mine, theirs := consoleFixture(), consoleFixture()
			mine.UserID, theirs.EndsAt = "@mallory:hs", time.UnixMicro(200000000).UTC()
			for token, s := range map[string]ConsoleSession{"mine": mine, "theirs": theirs} {
				if err := db.AddConsoleSession(t.Context(), []byte(token), s); err != nil {
					t.Fatal(err)
				}
			}
			raw(t, db, statement)
			if s, err := db.ConsoleSession(t.Context(), []byte("mine")); !errors.Is(err, ErrSealed) {
				t.Errorf("got a session of %s, %v", s.UserID, err)
			}
		})
	}
}

// Attack: an old backup of the database is put back, in which a session is not ended yet.
func TestRestoreEndsConsoleSessions(t *testing.T) {
	t.Parallel()
	url, backup := liteURL(t), liteURL(t)
	db := open(t, options(t, url))
	if err := db.AddConsoleSession(t.Context(), []byte("token"), consoleFixture()); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	copyFiles(t, pathOf(url), pathOf(backup))
	again := open(t, options(t, url))
	must[ConsoleSession](t)(again.ConsoleSession(t.Context(), []byte("token"))) // a restart ends nothing
	restored := open(t, options(t, backup))
	if restored.Restored() == "" {
		t.Fatal("the copy is not taken for one")
	}
	wantNoSession(t, restored, []byte("token"))
}
