package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/store/internal/sqlio"
)

// raw runs a statement behind the store's back, as somebody who can write to the database would.
func raw(t *testing.T, db *DB, statement string, params ...any) int64 {
	t.Helper()
	var n int64
	err := db.writer.run(t.Context(), func(ctx context.Context, x *sqlio.Tx) error {
		var err error
		n, err = x.Do(ctx, statement, params...)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return n
}

func column(t *testing.T, db *DB, query string, params ...any) [][]byte {
	t.Helper()
	var all [][]byte
	err := db.reader.Query(t.Context(), query, params, func(r *sql.Rows) error {
		var v []byte
		err := r.Scan(&v)
		all = append(all, v)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// sealedColumns are all columns that hold sealed values, each with a condition for one row
// of Alice's device A and with what reads it.
func sealedColumns(db *DB, acct *Account, dev int64) []sealedColumn {
	where := fmt.Sprintf("account = %d AND device = %d", acct.ID, dev)
	olm := func(ctx context.Context) error {
		_, err := db.OlmSessions(ctx, acct, dev, []string{"curveB"})
		return err
	}
	in := func(ctx context.Context) error {
		_, err := db.InboundSessions(ctx, acct, dev, []SessionRef{ref("!r1", "m1")})
		return err
	}
	device := func(ctx context.Context) error { _, err := db.Device(ctx, acct, "A"); return err }
	return []sealedColumn{
		{"accounts", "sealed_key", fmt.Sprintf("id = %d", acct.ID), func(ctx context.Context) error { _, err := db.LookupAccount(ctx, alice); return err }},
		{"devices", "sealed_olm", fmt.Sprintf("id = %d", dev), device},
		{"devices", "sealed_token", fmt.Sprintf("id = %d", dev), device},
		{"olm_sessions", "sealed_pickle", where + " AND session_id = 'o3'", olm},
		{"olm_steps", "sealed_steps", where + " AND step = 8", func(ctx context.Context) error { _, _, err := db.OlmSteps(ctx, acct, dev); return err }},
		{"outbox", "sealed_recipe", where, func(ctx context.Context) error { _, err := db.Outbox(ctx, acct, dev); return err }},
		{"inbound_sessions", "sealed_pickle", where + " AND room_id = '!r1' AND session_id = 'm1'", in},
		{"inbound_sessions", "sealed_owner", where + " AND room_id = '!r1' AND session_id = 'm1'", in},
		{"more_owners", "sealed_owners", where, func(ctx context.Context) error {
			_, err := db.MoreOwners(ctx, acct, dev, []OwnersRef{{ref("!r1", "m1"), "@bob:hs"}})
			return err
		}},
		{"outbound_sessions", "sealed_pickle", where, func(ctx context.Context) error { _, err := db.OutboundSession(ctx, acct, dev, "!r1"); return err }},
		{"inbox", "sealed_event", where + " AND seq = 1", func(ctx context.Context) error { _, err := db.Inbox(ctx, acct, dev, 1); return err }},
		{"users", "sealed_trust", fmt.Sprintf("account = %d AND user_id = '@bob:hs'", acct.ID), func(ctx context.Context) error {
			_, err := db.Users(ctx, acct, []id.UserID{"@bob:hs"})
			return err
		}},
		{"user_devices", "sealed_trust", fmt.Sprintf("account = %d AND user_id = '@bob:hs' AND device_id = 'B1'", acct.ID), func(ctx context.Context) error {
			_, err := db.UserDevices(ctx, acct, []id.UserID{"@bob:hs"})
			return err
		}},
		{"distrusts", "sealed_trust", fmt.Sprintf("account = %d", acct.ID), func(ctx context.Context) error {
			_, err := db.Distrusts(ctx, acct, []id.UserID{"@bob:hs"})
			return err
		}},
		{"search_parts", "sealed_data", fmt.Sprintf("account = %d AND segment = 7 AND part = 2", acct.ID), func(ctx context.Context) error {
			_, err := db.SearchParts(ctx, acct, []SearchPartRef{{7, 2}})
			return err
		}},
		{"unread", "sealed_state", fmt.Sprintf("account = %d", acct.ID), func(ctx context.Context) error {
			_, err := db.Unread(ctx, acct, []id.RoomID{"!r1"})
			return err
		}},
		{"notifications", "sealed_events", fmt.Sprintf("account = %d", acct.ID), func(ctx context.Context) error {
			_, err := db.Notifications(ctx, acct)
			return err
		}},
		{"control_rooms", "sealed_room", fmt.Sprintf("account = %d", acct.ID), func(ctx context.Context) error {
			_, err := db.ControlRoom(ctx, acct)
			return err
		}},
		{"intents", "sealed_intent", fmt.Sprintf("account = %d", acct.ID), func(ctx context.Context) error {
			_, err := db.Intents(ctx, acct)
			return err
		}},
		{"files", "sealed_file", fmt.Sprintf("account = %d AND expires_at = 0", acct.ID), func(ctx context.Context) error {
			_, err := db.Files(ctx, acct, []string{"mxc://hs/file"})
			return err
		}},
		{"audit_records", "sealed_record", "seq = 1", func(ctx context.Context) error {
			for r, err := range db.AuditLog().Records(ctx, 1) {
				return errors.Join(err, r.Err)
			}
			return ErrNotFound
		}},
		{"console_sessions", "sealed_session", "ends_at = " + fmt.Sprint(at(100).UnixMicro()), func(ctx context.Context) error {
			_, err := db.ConsoleSession(ctx, []byte("console token"))
			return err
		}},
		{"audit_head", "sealed_state", "one = 1", func(ctx context.Context) error { _, err := db.AuditLog().Head(ctx); return err }},
		{"secrets", "sealed_value", fmt.Sprintf("account = %d", acct.ID), func(ctx context.Context) error { _, err := db.Secret(ctx, acct, "recovery"); return err }},
	}
}

type sealedColumn struct {
	table, column, where string
	read                 func(context.Context) error
}

// fill saves everything for two devices of Alice and one of Bob.
func fill(t *testing.T, db *DB) (*Account, int64) {
	t.Helper()
	acct, dev := device(t, db, alice, "A")
	_, dev2 := device(t, db, alice, "B")
	bob, bobs := device(t, db, "@bob:hs", "A")
	for _, d := range []struct {
		acct *Account
		dev  Device
	}{{acct, dev}, {acct, dev2}, {bob, bobs}} {
		c := everything()
		d.dev.Token = secretString("token")
		c.Device = &d.dev
		c.MoreOwners = []MoreOwners{{OwnersRef{ref("!r1", "m1"), "@bob:hs"}, []byte("more owners")}}
		c.Search = []SearchPart{searchPart(7, 2, "index"), searchPart(8, 2, "another"), searchPart(7, 3, "a third")}
		c.Outbox = nil // so that the numbers of the inbox begin at 1
		c.OlmSteps = []OlmSteps{{8, []byte("steps")}}
		c.Distrusts = []UserDevice{goneDevice("B3")}
		save(t, db, d.acct, d.dev.ID, c)
		if err := db.PutIntent(t.Context(), d.acct, intentFixture(db)); err != nil {
			t.Fatal(err)
		}
		save(t, db, d.acct, d.dev.ID, &Changes{Outbox: []OutboxItem{{TxnID: "out", EventType: "m.room.encrypted", Recipe: []byte("recipe")}}})
	}
	if err := db.AddConsoleSession(t.Context(), []byte("console token"), consoleFixture()); err != nil {
		t.Fatal(err)
	}
	return acct, dev.ID
}

// TestSealedValuesOpenOnlyInTheirPlace puts every sealed value of this and of another
// database, which has the same master key, into every other place: it is refused there.
func TestSealedValuesOpenOnlyInTheirPlace(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := fill(t, db)
		other := open(t, options(t, liteURL(t)))
		fill(t, other)
		columns := sealedColumns(db, acct, dev)
		var values [][]byte
		for _, c := range columns {
			query := "SELECT " + c.column + " FROM " + c.table
			values = append(values, append(column(t, db, query), column(t, other, query)...)...)
		}
		values = append(values, column(t, db, "SELECT sealed_root FROM meta")...)
		for _, c := range columns {
			own := column(t, db, "SELECT "+c.column+" FROM "+c.table+" WHERE "+c.where)
			if len(own) != 1 || c.read(t.Context()) != nil {
				t.Fatalf("%s.%s: %d rows, %v", c.table, c.column, len(own), c.read(t.Context()))
			}
			put := "UPDATE " + c.table + " SET " + c.column + " = $1 WHERE " + c.where
			for i, v := range values {
				if len(v) == 0 || bytes.Equal(v, own[0]) {
					continue
				}
				raw(t, db, put, v)
				if err := c.read(t.Context()); !errors.Is(err, ErrSealed) && !errors.Is(err, ErrMasterKey) {
					t.Errorf("value %d in %s.%s: got %v, want ErrSealed", i, c.table, c.column, err)
				}
			}
			raw(t, db, put, own[0])
			if err := c.read(t.Context()); err != nil {
				t.Errorf("%s.%s put back: %v", c.table, c.column, err)
			}
		}
	})
}

// TestEverySealedColumnIsTested keeps the list above complete.
func TestEverySealedColumnIsTested(t *testing.T) {
	t.Parallel()
	db := open(t, options(t, liteURL(t)))
	tested := map[string]bool{"meta.sealed_root": true} // by TestWrongMasterKey
	for _, c := range sealedColumns(db, &Account{}, 0) {
		tested[c.table+"."+c.column] = true
	}
	for _, name := range column(t, db, `SELECT m.name || '.' || c.name FROM sqlite_master m, pragma_table_info(m.name) c
		WHERE m.type = 'table' AND c.name LIKE 'sealed%'`) {
		if !tested[string(name)] {
			t.Errorf("no test moves %s", name)
		}
	}
}

// TestClearColumnsThatDecideAreTied: who can write to the database cannot change what a
// key is trusted for, nor whom an account trusts.
func TestClearColumnsThatDecideAreTied(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		blob := func(text string) string {
			if strings.HasPrefix(url, "sqlite:") {
				return "x'" + hex.EncodeToString([]byte(text)) + "'"
			}
			return "decode('" + hex.EncodeToString([]byte(text)) + "', 'hex')"
		}
		db := open(t, options(t, url))
		acct, dev := fill(t, db)
		all := func() error {
			for _, err := range db.AllInboundSessions(t.Context(), acct, dev) {
				if err != nil {
					return err
				}
			}
			_, olm := db.OlmSessions(t.Context(), acct, dev, []string{"curveA", "curveX"})
			_, users := db.Users(t.Context(), acct, []id.UserID{"@bob:hs", "@carol:hs", "@eve:hs"})
			_, devices := db.UserDevices(t.Context(), acct, []id.UserID{"@bob:hs", "@eve:hs"})
			return errors.Join(olm, users, devices)
		}
		for _, change := range []struct{ do, undo string }{
			{"UPDATE inbound_sessions SET source = 'direct' WHERE source = 'backup'", "UPDATE inbound_sessions SET source = 'backup' WHERE session_id = 'm2'"},
			{"UPDATE inbound_sessions SET shared_history = 1 WHERE session_id = 'm2'", "UPDATE inbound_sessions SET shared_history = 0 WHERE session_id = 'm2'"},
			{"UPDATE inbound_sessions SET room_id = '!r9' WHERE session_id = 'm2'", "UPDATE inbound_sessions SET room_id = '!r1' WHERE session_id = 'm2'"},
			{"UPDATE olm_sessions SET their_key = 'curveX' WHERE session_id = 'o1'", "UPDATE olm_sessions SET their_key = 'curveA' WHERE session_id = 'o1'"},
			{"UPDATE users SET master = self_signing WHERE user_id = '@bob:hs'", "UPDATE users SET master = " + blob(`{"m":1}`) + " WHERE user_id = '@bob:hs'"},
			{"UPDATE users SET self_signing = master WHERE user_id = '@bob:hs'", "UPDATE users SET self_signing = " + blob(`{"s":1}`) + " WHERE user_id = '@bob:hs'"},
			{"UPDATE users SET user_signing = master WHERE user_id = '@bob:hs'", "UPDATE users SET user_signing = " + blob(`{"u":1}`) + " WHERE user_id = '@bob:hs'"},
			{"UPDATE users SET pinned_master = 'other' WHERE user_id = '@bob:hs'", "UPDATE users SET pinned_master = 'pin' WHERE user_id = '@bob:hs'"},
			{"UPDATE users SET verified = 0 WHERE user_id = '@bob:hs'", "UPDATE users SET verified = 1 WHERE user_id = '@bob:hs'"},
			{"UPDATE users SET was_verified = 0 WHERE user_id = '@bob:hs'", "UPDATE users SET was_verified = 1 WHERE user_id = '@bob:hs'"},
			{"UPDATE users SET verified = 1 WHERE user_id = '@carol:hs'", "UPDATE users SET verified = 0 WHERE user_id = '@carol:hs'"},
			{"UPDATE users SET user_id = '@eve:hs' WHERE user_id = '@bob:hs'", "UPDATE users SET user_id = '@bob:hs' WHERE user_id = '@eve:hs'"},
			{"UPDATE user_devices SET trust_exception = 1 WHERE device_id = 'B2'", "UPDATE user_devices SET trust_exception = NULL WHERE device_id = 'B2'"},
			{"UPDATE user_devices SET exception_at = 1 WHERE device_id = 'B1'", "UPDATE user_devices SET exception_at = 0 WHERE device_id = 'B1'"},
			{"UPDATE user_devices SET exception_by = 'X' WHERE device_id = 'B1'", "UPDATE user_devices SET exception_by = '' WHERE device_id = 'B1'"},
			{"UPDATE user_devices SET trust_exception = 0 WHERE device_id = 'B1'", "UPDATE user_devices SET trust_exception = 1 WHERE device_id = 'B1'"},
			{"UPDATE user_devices SET trust_exception = NULL WHERE device_id = 'B1'", "UPDATE user_devices SET trust_exception = 1 WHERE device_id = 'B1'"},
			{"UPDATE user_devices SET signed = 1 WHERE device_id = 'B2'", "UPDATE user_devices SET signed = 0 WHERE device_id = 'B2'"},
			{"UPDATE user_devices SET curve25519 = 'curveX' WHERE device_id = 'B1'", "UPDATE user_devices SET curve25519 = 'curveA' WHERE device_id = 'B1'"},
			{"UPDATE user_devices SET ed25519 = 'edX' WHERE device_id = 'B1'", "UPDATE user_devices SET ed25519 = 'ed' WHERE device_id = 'B1'"},
			{"UPDATE user_devices SET keys = " + blob(`{"k":2}`) + " WHERE device_id = 'B1'", "UPDATE user_devices SET keys = " + blob(`{"k":1}`) + " WHERE device_id = 'B1'"},
			{"UPDATE user_devices SET user_id = '@eve:hs' WHERE device_id = 'B1'", "UPDATE user_devices SET user_id = '@bob:hs' WHERE device_id = 'B1'"},
			{"UPDATE user_devices SET device_id = 'B3' WHERE device_id = 'B1'", "UPDATE user_devices SET device_id = 'B1' WHERE device_id = 'B3'"},
		} {
			if raw(t, db, change.do) == 0 {
				t.Fatalf("%s: no row", change.do)
			}
			if err := all(); !errors.Is(err, ErrSealed) {
				t.Errorf("%s: got %v, want ErrSealed", change.do, err)
			}
			raw(t, db, change.undo)
			if err := all(); err != nil {
				t.Fatalf("%s: %v", change.undo, err)
			}
		}
	})
}

// canaries returns a Changes with a canary in every place that must not be readable.
func canaries() (*Changes, []string) {
	var words []string
	word := func(what string) secret.Bytes {
		w := "CANARY-" + what + "-5d41402abc4b2a76"
		words = append(words, w)
		return secret.Bytes(w)
	}
	c := everything()
	d := Device{DeviceID: "A", Olm: word("olm"), Token: secretString(string(word("token").Reveal()))}
	c.Device = &d
	c.OlmSessions[0].Pickle = word("olmsession")
	c.InboundSessions[0].Pickle, c.InboundSessions[0].Owner = word("inbound"), word("owner")
	c.Owners = []SessionOwner{{ref("!r1", "m2"), word("newowner")}}
	c.MoreOwners = []MoreOwners{{OwnersRef{ref("!r1", "m1"), "@bob:hs"}, word("moreowners")}}
	c.OutboundSessions[0].Pickle = word("outbound")
	c.Secrets[0].Value = word("secret")
	c.Search = []SearchPart{{SearchPartRef{7, 2}, word("index")}}
	c.Inbox[0].Event = word("event")
	c.Audit[1].Room = string(word("room").Reveal())
	c.Transactions[0].Type, c.Transactions[0].TxnID = string(word("type").Reveal()), string(word("txn").Reveal())
	return c, words
}

// TestNoCanaryInTheDatabase greps the files for what was sealed (attack 59).
func TestNoCanaryInTheDatabase(t *testing.T) {
	t.Parallel()
	url := liteURL(t)
	db := open(t, options(t, url))
	acct, dev := device(t, db, alice, "A")
	c, words := canaries()
	c.Device.ID = dev.ID
	save(t, db, acct, dev.ID, c)
	dir := filepath.Dir(strings.TrimPrefix(url, "sqlite:"))
	grep := func() {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, f := range files {
			content, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			size += len(content)
			for _, w := range words {
				if bytes.Contains(content, []byte(w)) {
					t.Errorf("%s is in %s", w, f.Name())
				}
			}
		}
		if size < 10_000 {
			t.Errorf("only %d bytes were looked through", size)
		}
	}
	grep() // the log
	raw(t, db, "DELETE FROM warnings")
	closeDB(t, db)
	grep() // the database
}

// TestNoCanaryInPostgreSQL is the same for the text of every row.
func TestNoCanaryInPostgreSQL(t *testing.T) {
	t.Parallel()
	db := open(t, options(t, postgres.Database(t)))
	acct, dev := device(t, db, alice, "A")
	c, words := canaries()
	c.Device.ID = dev.ID
	save(t, db, acct, dev.ID, c)
	for table := range rowCounts(t, db) {
		for _, row := range column(t, db, "SELECT "+table+"::text FROM "+table) {
			for _, w := range words {
				if bytes.Contains(row, []byte(w)) || bytes.Contains(row, []byte(hex.EncodeToString([]byte(w)))) {
					t.Errorf("%s is in %s", w, table)
				}
			}
		}
	}
}

// TestNothingSecretIsPrinted formats what a careless log line would.
func TestNothingSecretIsPrinted(t *testing.T) {
	t.Parallel()
	db := open(t, options(t, liteURL(t)))
	acct, dev := device(t, db, alice, "A")
	c, words := canaries()
	c.Device.ID = dev.ID
	save(t, db, acct, dev.ID, c)
	printed := fmt.Sprintf("%v %+v %#v %+v %+v", *c.Device, c.OlmSessions, c.Secrets, acct, c.Inbox)
	printed += fmt.Sprintf("%+v %x", must[Device](t)(db.Device(t.Context(), acct, "A")), db.root)
	for _, w := range words {
		if strings.Contains(printed, w) || strings.Contains(printed, hex.EncodeToString([]byte(w))) {
			t.Errorf("%s was printed", w)
		}
	}
	if strings.Contains(printed, hex.EncodeToString(db.root)) {
		t.Error("the root secret was printed")
	}
}

func TestHash(t *testing.T) {
	t.Parallel()
	db, other := open(t, options(t, liteURL(t))), open(t, options(t, liteURL(t)))
	h := db.Hash("token", []byte("abc"))
	if h != db.Hash("token", []byte("abc")) {
		t.Error("the same input gives another hash")
	}
	for what, got := range map[string][32]byte{
		"data": db.Hash("token", []byte("abd")), "purpose": db.Hash("digest", []byte("abc")),
		"border": db.Hash("toke", []byte("nabc")), "database": other.Hash("token", []byte("abc")),
	} {
		if got == h {
			t.Errorf("another %s gives the same hash", what)
		}
	}
	if db.hashTxn(TxnRef{"!a", "b", "c"}) == db.hashTxn(TxnRef{"!ab", "", "c"}) ||
		db.hashSession(ref("!a", "b")) == db.hashSession(SessionRef{RoomID: "!ab", SessionID: id.SessionID("")}) {
		t.Error("shifted parts give the same hash")
	}
}
