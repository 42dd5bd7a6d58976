package e2ee_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
)

// The process ends at a certain moment: with the n-th request to the homeserver, which it
// does or does not get, or with the n-th write to the database. From then on nothing
// reaches either of them, until the process is started again.
type crash struct {
	name string
	n    int
	hit  atomic.Bool
	undo func()
}

// crashes gives the kinds of crash for one n.
func crashes(n int) []*crash {
	return []*crash{{name: "before request", n: n}, {name: "after request", n: n}, {name: "at write", n: n}}
}

func (c *crash) String() string { return fmt.Sprintf("%s %d", c.name, c.n) }

// arm lets it happen to what a user's devices do through a rig from now on.
func (c *crash) arm(r *rig, user string) {
	if c.name == "at write" {
		c.undo = failWrites(r.t, r.path, c.n)
		return
	}
	var seen atomic.Int64
	c.undo = r.hs.Intercept(liar.Of(user, liar.Is("", "/_matrix/client/v3/(keys|room_keys|user|sendToDevice)")), func(_ *liar.Request, next func() liar.Reply) liar.Reply {
		if seen.Add(1) < int64(c.n) && !c.hit.Load() {
			return next()
		}
		if !c.hit.Swap(true) && c.name == "after request" {
			next()
		}
		return liar.Reply{Cut: true}
	})
}

const crashText = "the process ended here"

// Write sees log lines: that is how it is known that a write failed.
func (c *crash) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(crashText)) {
		c.hit.Store(true)
	}
	return len(line), nil
}

// returned looks at the error of a call for the same reason.
func (c *crash) returned(err error) {
	if err != nil && strings.Contains(err.Error(), crashText) {
		c.hit.Store(true)
	}
}

// tableNames gives the tables whose writes can fail.
func tableNames(t *testing.T, db *sql.DB) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('meta', 'restore_mark') AND name NOT LIKE 'sqlite%'")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// failWrites makes the n-th change of a row fail, and all that follow: the transaction in
// which it happens is rolled back, its count included.
func failWrites(t *testing.T, path string, n int) (undo func()) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	run := func(statement string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
			t.Fatal(err)
		}
	}
	tables := tableNames(t, db)
	run("CREATE TABLE crash (n INTEGER, stop INTEGER)")
	run("INSERT INTO crash VALUES (0, ?)", n)
	for _, table := range tables {
		for _, change := range []string{"INSERT", "UPDATE", "DELETE"} {
			run(fmt.Sprintf(`CREATE TRIGGER crash_%s_%s BEFORE %s ON %s BEGIN
				UPDATE crash SET n = n + 1;
				SELECT RAISE(ABORT, '%s') FROM crash WHERE n >= stop;
			END`, table, change, change, table, crashText))
		}
	}
	return func() {
		db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		for _, table := range tables {
			for _, change := range []string{"INSERT", "UPDATE", "DELETE"} {
				if _, err := db.ExecContext(context.Background(), fmt.Sprintf("DROP TRIGGER crash_%s_%s", table, change)); err != nil {
					t.Error(err)
				}
			}
		}
		if _, err := db.ExecContext(context.Background(), "DROP TABLE crash"); err != nil {
			t.Error(err)
		}
	}
}

// crashing gives a rig whose log lines the crash sees.
func (c *crash) rig(t *testing.T, hs *liar.Server) *rig {
	return newRig(t, hs, func(o *e2ee.Options) { o.Log = zerolog.New(c) })
}

// everyCrash runs a test for each kind of crash and each moment, until the moments are over.
// run reports whether the crash happened.
func everyCrash(t *testing.T, run func(t *testing.T, c *crash) bool) {
	t.Helper()
	for i, kind := range crashes(0) {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			step := 1
			if testing.Short() {
				step = 7
			}
			for n := 1; n < 400; n += step {
				c := crashes(n)[i]
				happened := false
				if !t.Run(fmt.Sprint(n), func(t *testing.T) { happened = run(t, c) }) {
					t.FailNow()
				}
				if !happened {
					t.Logf("%d moments", n-1)
					return
				}
			}
			t.Error("there is no end")
		})
	}
}

// masters are the different master keys that a user has uploaded.
func masters(t *testing.T, hs *liar.Server, user string) int {
	t.Helper()
	seen := make(map[string]bool)
	for _, r := range hs.Requests(liar.Of(user, liar.Is(http.MethodPost, "device_signing/upload"))) {
		var body struct {
			Master struct {
				Keys map[string]string `json:"keys"`
			} `json:"master_key"`
		}
		if err := r.JSON(&body); err != nil {
			t.Fatal(err)
		}
		for key := range body.Master.Keys {
			seen[key] = true
		}
	}
	return len(seen)
}

// Whenever the process ends while it sets a fresh account up, it goes on with the same
// identity, recovery key and backup when it is started again (requirement 12.13).
func TestCrashDuringBootstrap(t *testing.T) {
	t.Parallel()
	everyCrash(t, func(t *testing.T, c *crash) bool {
		hs := liar.New(t)
		s := hs.Login("alice", "FIRST")
		r := c.rig(t, hs)
		c.arm(r, s.UserID)
		d, err := r.eng.Device(t.Context(), id.UserID(s.UserID), "FIRST", secret.NewString(s.Token))
		c.returned(err)
		if err == nil {
			d.PublishWithin(0)
			await(t, "it neither ends nor crashes", func() bool {
				if c.hit.Load() {
					return true
				}
				st, err := d.Status(t.Context())
				return err == nil && inOrder(st)
			})
		}
		happened := c.hit.Load()
		r.stop()
		c.undo()
		r.start()
		d = r.device(s)
		ready(t, d)
		if n := masters(t, hs, s.UserID); n != 1 {
			t.Errorf("%v: %d identities were uploaded", c, n)
		}
		if _, version := hs.BackedUp(s.UserID); version != "1" {
			t.Errorf("%v: the backup has version %s", c, version)
		}
		second := newRig(t, hs, nil).device(hs.Login("alice", "SECOND"))
		settle(t, second)
		if err := second.Recover(t.Context(), e2ee.Recovery{Key: recoveryKey(t, d)}); err != nil {
			t.Errorf("%v: the recovery key does not open: %v", c, err)
		}
		if codes := warningCodes(t, d); len(codes) != 0 && codes["device_not_signed"].ID == "" {
			t.Errorf("%v: %+v", c, codes)
		}
		return happened
	})
}

// Whenever the process ends while a device recovers, the recovery can be repeated, and
// nothing of the account was changed.
func TestCrashDuringRecover(t *testing.T) {
	t.Parallel()
	everyCrash(t, func(t *testing.T, c *crash) bool {
		hs := liar.New(t)
		first := newPerson(t, hs, "alice", "FIRST")
		key := recoveryKey(t, first.dev)
		identity, storage := first.master(), defaultKey(t, hs, first.Session)
		first.rig.stop()
		s := hs.Login("alice", "SECOND")
		r := c.rig(t, hs)
		d := r.device(s)
		settle(t, d)
		c.arm(r, s.UserID)
		err := d.Recover(t.Context(), e2ee.Recovery{Key: key, Restore: true})
		c.returned(err)
		happened := c.hit.Load()
		if err != nil && !happened {
			t.Fatalf("%v: %v", c, err)
		}
		r.stop()
		c.undo()
		r.start()
		d = r.device(s)
		settle(t, d)
		if err := d.Recover(t.Context(), e2ee.Recovery{Key: key}); err != nil {
			t.Fatalf("%v: the recovery cannot be repeated: %v", c, err)
		}
		if st := status(t, d); !inOrder(st) || len(st.Warnings) != 0 {
			t.Errorf("%v: %+v", c, st)
		}
		if _, version := hs.BackedUp(s.UserID); first.master() != identity || defaultKey(t, hs, s) != storage || version != "1" {
			t.Errorf("%v: the account was changed", c)
		}
		return happened
	})
}

// Whenever the process ends during a reset, the account has its old identity whole, or its
// new one, to whose end maintenance comes by itself. There is no alarm about the user's
// own doing.
func TestCrashDuringReset(t *testing.T) {
	t.Parallel()
	everyCrash(t, func(t *testing.T, c *crash) bool {
		hs := liar.New(t)
		s := hs.Login("alice", "FIRST")
		r := c.rig(t, hs)
		d := r.device(s)
		ready(t, d)
		before, oldKey := hs.CrossSigningKey(s.UserID, "master"), recoveryKey(t, d)
		c.arm(r, s.UserID)
		auth := e2ee.UserAuth{Password: secret.NewString("password of alice")}
		_, err := d.Reset(t.Context(), auth)
		c.returned(err)
		happened := c.hit.Load()
		if err != nil && !happened {
			t.Fatalf("%v: %v", c, err)
		}
		r.stop()
		c.undo()
		r.start()
		d = r.device(s)
		ready(t, d)
		isNew := hs.CrossSigningKey(s.UserID, "master") != before
		if got := recoveryKey(t, d); (got.Reveal() != oldKey.Reveal()) != isNew {
			t.Errorf("%v: identity new: %v, recovery key new: %v", c, isNew, !isNew)
		}
		second := newRig(t, hs, nil).device(hs.Login("alice", "SECOND"))
		settle(t, second)
		if err := second.Recover(t.Context(), e2ee.Recovery{Key: recoveryKey(t, d)}); err != nil {
			t.Errorf("%v: the recovery key does not open: %v", c, err)
		}
		if codes := warningCodes(t, d); codes["own_identity_changed"].ID != "" || codes["backup_broken"].ID != "" {
			t.Errorf("%v: %+v", c, codes)
		}
		secrets, err := d.Secrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if secrets["reset"] != "" && isNew {
			t.Errorf("%v: the reset does not end", c)
		}
		if _, err := d.Reset(t.Context(), auth); err != nil || hs.CrossSigningKey(s.UserID, "master") == before {
			t.Errorf("%v: another reset: %v", c, err)
		}
		return happened
	})
}

// Whenever the process ends during an acknowledgement or a withdrawal, it can be repeated,
// and the warning goes with the change, not before and not after it.
func TestCrashDuringAcknowledge(t *testing.T) {
	t.Parallel()
	everyCrash(t, func(t *testing.T, c *crash) bool {
		hs := liar.New(t)
		bob, carol := newPerson(t, hs, "bob", "BOBS"), newPerson(t, hs, "carol", "CAROLS")
		alice := &person{t: t, hs: hs, rig: c.rig(t, hs), Session: hs.Login("alice", "FIRST")}
		alice.dev = alice.rig.device(alice.Session)
		ready(t, alice.dev)
		room := alice.newRoom(bob, carol)
		alice.send(room, "hello")
		if err := alice.dev.Verify(t.Context(), id.UserID(carol.UserID)); err != nil {
			t.Fatal(err)
		}
		bob.reset()
		carol.reset()
		await(t, "no warnings", func() bool { return len(warningCodes(t, alice.dev)) == 2 })
		c.arm(alice.rig, alice.UserID)
		do := func() error {
			if err := alice.dev.Acknowledge(t.Context(), id.UserID(bob.UserID), bob.master()); err != nil {
				return err
			}
			err := alice.dev.WithdrawVerification(t.Context(), id.UserID(carol.UserID))
			if errorIs(err, e2ee.ErrNotVerified) {
				return nil // it was done before
			}
			return err
		}
		err := do()
		c.returned(err)
		happened := c.hit.Load()
		if err != nil && !happened {
			t.Fatalf("%v: %v", c, err)
		}
		alice.rig.stop()
		c.undo()
		alice.rig.start()
		alice.dev = alice.rig.device(alice.Session)
		for user, code := range map[*person]string{bob: "identity_changed", carol: "verification_lost"} {
			trust, err := alice.dev.User(t.Context(), id.UserID(user.UserID))
			if err != nil {
				t.Fatal(err)
			}
			if warned := warningCodes(t, alice.dev)[code].ID != ""; warned != (trust.State != "pinned") {
				t.Errorf("%v: %s is %s, warned: %v", c, user.UserID, trust.State, warned)
			}
		}
		if err := do(); err != nil {
			t.Errorf("%v: it cannot be repeated: %v", c, err)
		}
		alice.send(room, "after")
		if codes := warningCodes(t, alice.dev); len(codes) != 0 {
			t.Errorf("%v: %+v", c, codes)
		}
		return happened
	})
}
