package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"
)

// A send saves its ratchet, and the connection to the database breaks while the commit is
// made. Who takes the error for "nothing was written" uses an index a second time; who
// takes every error for "it may have been" throws away state that was fine. So the error
// tells the two apart, and here the connection is broken on either side of the commit.
func TestUnsureWhenTheConnectionBreaksDuringCommit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cut  int32
		want int
	}{
		"before the server gets it": {cutBefore, 0}, "after the server got it": {cutAfter, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRelay(t, postgres.Database(t))
			db := open(t, options(t, r.url))
			acct, dev := device(t, db, alice, "A")
			r.cut.Store(test.cut)
			err := db.Save(t.Context(), acct, dev.ID, oneRoom("!r"))
			if !errors.Is(err, ErrUnsure) {
				t.Fatalf("got %v, want ErrUnsure", err)
			}
			await(t, "the server's end of the commit", func() bool { return roomCount(t, db, acct, dev.ID) == test.want })
			save(t, db, acct, dev.ID, oneRoom("!next"))
		})
	}
}

// A write that fails before its commit is asked for has written nothing, and the caller is
// told so: by an error that is not ErrUnsure.
func TestSureThatNothingWasWritten(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		var h hook
		o := options(t, url)
		o.Wrap = h.wrap
		db := open(t, o)
		acct, dev := device(t, db, alice, "A")
		sure := func(what string, err error) {
			t.Helper()
			if err == nil || errors.Is(err, ErrUnsure) {
				t.Errorf("%s: got %v, want an error that is sure", what, err)
			}
			same(t, what, roomCount(t, db, acct, dev.ID), 0)
		}
		for _, part := range []string{"BEGIN", "INSERT INTO rooms"} {
			h.watch(func(statement string) error {
				if strings.HasPrefix(statement, part) {
					return errInjected
				}
				return nil
			})
			sure(part, db.Save(t.Context(), acct, dev.ID, oneRoom("!r")))
		}
		h.watch(nil)
		sure("foreign key", db.Save(t.Context(), acct, 12345, oneRoom("!r")))
		ended, end := context.WithCancel(t.Context())
		end()
		sure("context", db.Save(ended, acct, dev.ID, oneRoom("!r")))
	})
}

// PostgreSQL may answer a COMMIT with an error of a constraint that it checks last: then it
// has rolled back, and says so.
func TestSureWhenTheServerRefusesTheCommit(t *testing.T) {
	t.Parallel()
	db := open(t, options(t, postgres.Database(t)))
	acct, dev := device(t, db, alice, "A")
	raw(t, db, "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$")
	raw(t, db, "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON rooms DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()")
	err := db.Save(t.Context(), acct, dev.ID, oneRoom("!r"))
	if err == nil || errors.Is(err, ErrUnsure) || !strings.Contains(err.Error(), "commit: ") {
		t.Errorf("got %v, want an error of the commit that is sure", err)
	}
	same(t, "rooms", roomCount(t, db, acct, dev.ID), 0)
}

// The same on SQLite: a commit that fails at the disk, and a restore mark that cannot be
// written after it, when everything is stored already.
func TestUnsureOnSQLite(t *testing.T) {
	t.Parallel()
	var h hook
	o := options(t, liteURL(t))
	o.Wrap = h.wrap
	db := open(t, o)
	acct, dev := device(t, db, alice, "A")
	h.watch(func(statement string) error {
		if statement == "COMMIT" {
			return errInjected
		}
		return nil
	})
	if err := db.Save(t.Context(), acct, dev.ID, oneRoom("!r")); !errors.Is(err, ErrUnsure) || !errors.Is(err, errInjected) {
		t.Errorf("the commit fails: got %v, want ErrUnsure", err)
	}
	h.watch(nil)
	if err := db.mark.f.Close(); err != nil {
		t.Fatal(err)
	}
	err := db.Save(t.Context(), acct, dev.ID, &Changes{OutboundSessions: []OutboundSession{{RoomID: "!r", SessionID: "s", Pickle: []byte("p"), CreatedAt: at(1)}}})
	if !errors.Is(err, ErrUnsure) {
		t.Errorf("the mark cannot be written: got %v, want ErrUnsure", err)
	}
	must[OutboundSession](t)(db.OutboundSession(t.Context(), acct, dev.ID, "!r"))
}

func oneRoom(room id.RoomID) *Changes { return &Changes{Rooms: []Room{{RoomID: room}}} }

func roomCount(t *testing.T, db *DB, acct *Account, dev int64) int {
	t.Helper()
	return len(must[map[id.RoomID]Room](t)(db.Rooms(t.Context(), acct, dev, nil)))
}

// relay passes on the traffic to PostgreSQL and can cut a connection at its next commit.
type relay struct {
	url string
	cut atomic.Int32 // for one commit
}

const (
	cutBefore = 1
	cutAfter  = 2
)

func startRelay(t *testing.T, to string) *relay {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	server := filepath.Join(q.Get("host"), ".s.PGSQL.5432")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	host, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	q.Set("host", host)
	q.Set("port", port)
	q.Set("sslmode", "disable")
	q.Set("default_query_exec_mode", "exec") // so that each commit is one to be seen
	u.RawQuery = q.Encode()
	r := &relay{url: u.String()}
	go func() { // ends with the listener
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			go r.pass(client, server)
		}
	}()
	return r
}

// pass copies both ways until either end closes.
func (r *relay) pass(client net.Conn, address string) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("unix", address)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	var deaf atomic.Bool
	go func() {
		defer func() { _ = client.Close() }()
		buf := make([]byte, 32<<10)
		for {
			n, err := server.Read(buf)
			if err != nil || deaf.Load() {
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("commit\x00")) {
			switch r.cut.Swap(0) {
			case cutBefore:
				return
			case cutAfter:
				deaf.Store(true) // before the server can answer
			}
		}
		if _, err := io.Copy(server, bytes.NewReader(buf[:n])); err != nil {
			return
		}
	}
}
