package e2ee_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the database is broken behind the store's back

	"e2ee-proxy/e2ee"
)

// A client that has no answer repeats its transaction. It gets the same ciphertext, at
// once and after a restart, however it writes it; and the event's ID once that is known
// (requirement 19.11).
func TestRepeatedTransaction(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	out := st.outgoing(room, "said once")
	first, err := st.encrypt(out)
	if err != nil {
		t.Fatal(err)
	}
	again := func(when string, out e2ee.Outgoing) {
		t.Helper()
		repeated, err := st.encrypt(out)
		if err != nil || !bytes.Equal(repeated.Content, first.Content) || repeated.EventID != "" {
			t.Errorf("%s: another ciphertext, event %q, %v", when, repeated.EventID, err)
		}
	}
	again("at once", out)
	rewritten := out
	rewritten.Content = append([]byte(" "), bytes.ReplaceAll(out.Content, []byte(`":"`), []byte(`" : "`))...)
	again("written in another way", rewritten)
	st.send(room, "between")
	st.again()
	again("after a restart", out)
	st.later(30 * 24 * time.Hour)
	st.send(room, "in a new session")
	again("after a rotation", out)
	event := st.put(out, first)
	done, err := st.encrypt(out)
	if err != nil || done.EventID.String() != event {
		t.Errorf("after the answer: event %q, %v", done.EventID, err)
	}
	if n := len(st.hs.Events(room)); n == 0 {
		t.Error("nothing was sent")
	}
}

// Many sends at the same moment, some of them the same transaction: one ciphertext for
// each transaction, one index for each ciphertext.
func TestConcurrentSends(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	rooms := []string{st.hs.CreateRoom(true, st.alice.UserID, bob.UserID), st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)}
	var outs []e2ee.Outgoing
	for i := range 20 {
		outs = append(outs, st.outgoing(rooms[i%2], fmt.Sprintf("number %d", i)))
	}
	made := make([][3]e2ee.Encrypted, len(outs))
	var wg sync.WaitGroup
	for i, out := range outs {
		for j := range made[i] {
			wg.Go(func() {
				var err error
				if made[i][j], err = st.encrypt(out); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	seen := make(map[header]bool)
	for i, same := range made {
		for _, enc := range same {
			if !bytes.Equal(enc.Content, same[0].Content) {
				t.Errorf("transaction %d has two ciphertexts", i)
			}
		}
		h := headerOf(t, same[0].Content)
		if seen[h] {
			t.Errorf("index %d was used twice", h.index)
		}
		seen[h] = true
		st.put(outs[i], same[0])
		reads(t, bob, h)
	}
}

// faulty breaks the database under a running engine: from the n-th change of a row on
// every change fails, until it is mended. It works through triggers, on a connection of
// its own.
type faulty struct {
	t  *testing.T
	db *sql.DB
}

// never is more changes than any test makes.
const never = 1 << 30

func newFaulty(t *testing.T, path string) *faulty {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	f := &faulty{t, db}
	f.exec("CREATE TABLE fault (left INTEGER NOT NULL)")
	f.exec("INSERT INTO fault VALUES (?)", never)
	var tables []string
	rows, err := db.QueryContext(t.Context(), "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'fault' AND name NOT LIKE 'sqlite_%'")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil { // the one connection is needed below
		t.Fatal(err)
	}
	for _, table := range tables {
		for _, change := range []string{"INSERT", "UPDATE", "DELETE"} {
			f.exec(fmt.Sprintf(`CREATE TRIGGER "fault_%s_%s" BEFORE %s ON "%s" BEGIN
				UPDATE fault SET left = left - 1;
				SELECT RAISE(ABORT, 'the test breaks the database') WHERE (SELECT left FROM fault) <= 0;
			END`, change, table, change, table))
		}
	}
	return f
}

func (f *faulty) exec(query string, args ...any) {
	f.t.Helper()
	if _, err := f.db.ExecContext(f.t.Context(), query, args...); err != nil {
		f.t.Fatal(err)
	}
}

// after lets so many changes succeed.
func (f *faulty) after(n int) { f.t.Helper(); f.exec("UPDATE fault SET left = ?", n+1) }

func (f *faulty) mend() { f.t.Helper(); f.exec("UPDATE fault SET left = ?", never) }

// Attack 53. The database fails at the n-th change, for every n, while alice sends with a
// new session, reads a message of bob's whose key has just come, and replenishes her
// one-time keys. Each step that fails is repeated as a client repeats it. No index is
// used twice (the stage looks), nothing is lost, nothing is acknowledged to the
// homeserver that was not kept.
func TestDatabaseFailsAtAnyPoint(t *testing.T) {
	t.Parallel()
	st := newStage(t, func(o *e2ee.Options) { o.OwnSyncAfter = time.Hour })
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	st.sync()
	reads(t, bob, st.send(room, "before anything breaks"))
	fault := newFaulty(t, st.path)
	for n := 0; ; n++ {
		failed := st.brokenRound(fault, n, bob, room)
		if t.Failed() {
			t.Fatalf("when the database fails after %d changes", n)
		}
		if !failed {
			if n < 10 {
				t.Fatalf("only %d changes in a round: the test breaks nothing", n)
			}
			return
		}
	}
}

// brokenRound makes one round; it tells whether anything failed.
func (st *stage) brokenRound(fault *faulty, n int, bob *puppet, room string) (failed bool) {
	st.t.Helper()
	st.later(8 * 24 * time.Hour) // a new session for every round
	said := bob.newMegolm(room)
	said.share(st.target())
	event := said.say(fmt.Sprintf("bob %d", n))
	out := st.outgoing(room, fmt.Sprintf("alice %d", n))

	fault.after(n)
	var enc e2ee.Encrypted
	for _, step := range []func() error{
		func() (err error) { enc, err = st.encrypt(out); return err },
		st.trySync,
		func() error { st.dev.Maintain(st.t.Context()); return nil },
	} {
		if step() != nil {
			failed = true
			fault.mend()
			if err := step(); err != nil {
				st.t.Errorf("after the database was mended: %v", err)
			}
		}
	}
	fault.mend()
	h := headerOf(st.t, enc.Content)
	st.put(out, enc)
	reads(st.t, bob, h)
	if bodyOf(st.shown[event]) != fmt.Sprintf("bob %d", n) {
		failed = true // the sync went on, but the event could not be judged: it is read again
		st.since = ""
		st.awaitText(event, fmt.Sprintf("bob %d", n))
	}
	return failed
}

// Attack 55. Yesterday's database is put back. What was sent since must not be sent again
// under the same index, and one-time keys that the homeserver has meanwhile given away
// must not stand in the way of new ones.
func TestOldDatabasePutBack(t *testing.T) {
	t.Parallel()
	st := newStage(t, nil)
	bob, _ := confirmedPuppet(t, st.hs, "bob", "BOB")
	room := st.hs.CreateRoom(true, st.alice.UserID, bob.UserID)
	before := st.send(room, "yesterday")
	st.stop()
	old, err := os.ReadFile(st.path)
	if err != nil {
		t.Fatal(err)
	}
	st.start()
	st.dev = st.device(st.alice)
	for i := range 5 {
		st.send(room, fmt.Sprintf("today %d", i))
	}
	for range 30 {
		bob.claim(st.target())
	}
	st.stop()
	for _, name := range []string{"-wal", "-shm"} {
		_ = os.Remove(st.path + name)
	}
	// As from a backup: a new file in place of the old one.
	restored := filepath.Join(filepath.Dir(st.path), "restored")
	if err := os.WriteFile(restored, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(restored, st.path); err != nil {
		t.Fatal(err)
	}
	st.start()
	st.dev = st.device(st.alice)
	after := st.send(room, "tomorrow")
	if after.session == before.session {
		t.Error("a session is used further of which is not known how far it was used")
	}
	reads(t, bob, after)
	st.dev.Maintain(t.Context())
	fresh := newPuppet(t, st.hs, "bob", "FRESH")
	said := fresh.newMegolm(room)
	said.share(st.target())
	if code := st.wantHidden(said.say("from a new device"), "from a new device"); code == "MissingRoomKey" {
		t.Error("a message to a new one-time key cannot be read")
	}
}
