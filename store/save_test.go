package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/secret"
)

// TestEverythingComesBack saves a row of every kind and reads it with every reader, before
// and after the database is closed.
func TestEverythingComesBack(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		c := everything()
		dev.Ed25519, dev.Curve25519, dev.KeysUploaded, dev.FallbackChangedAt = "ed", "curve", true, at(4)
		dev.Token, dev.Meta = secretString("syt_token"), json.RawMessage(`{"x":1}`)
		c.Device = &dev
		save(t, db, acct, dev.ID, c)
		dev.SyncPosition = "s1"

		checkEverything(t, db, acct, dev, c)
		closeDB(t, db)
		db = open(t, options(t, url))
		acct = must[*Account](t)(db.LookupAccount(t.Context(), alice))
		checkEverything(t, db, acct, dev, c)
	})
}

func checkEverything(t *testing.T, db *DB, acct *Account, dev Device, c *Changes) {
	t.Helper()
	checkDevice(t, db, acct, dev, c)
	checkSessions(t, db, acct, dev.ID, c)
	checkQueues(t, db, acct, dev.ID, c)
	checkAccount(t, db, acct, c)
}

func checkDevice(t *testing.T, db *DB, acct *Account, dev Device, c *Changes) {
	t.Helper()
	ctx := t.Context()
	same(t, "Device", must[Device](t)(db.Device(ctx, acct, dev.DeviceID)), dev)
	same(t, "Devices", must[[]Device](t)(db.Devices(ctx, acct)), []Device{dev})
	for ref, err := range db.OwnDevices(ctx) {
		same(t, "OwnDevices", must[DeviceRef](t)(ref, err), DeviceRef{acct.UserID, dev.DeviceID})
	}
	rooms := map[id.RoomID]Room{"!r1": c.Rooms[0], "!r2": c.Rooms[1]}
	same(t, "all Rooms", must[map[id.RoomID]Room](t)(db.Rooms(ctx, acct, dev.ID, nil)), rooms)
	delete(rooms, "!r2")
	same(t, "Rooms", must[map[id.RoomID]Room](t)(db.Rooms(ctx, acct, dev.ID, []id.RoomID{"!r1", "!none"})), rooms)
	same(t, "no Rooms", must[map[id.RoomID]Room](t)(db.Rooms(ctx, acct, dev.ID, []id.RoomID{})), map[id.RoomID]Room{})
	encrypted := make(map[id.RoomID]EncryptedRoom)
	for _, r := range c.Rooms {
		if r.Algorithm != "" {
			encrypted[r.RoomID] = EncryptedRoom{r.RoomID, r.Algorithm, r.EncryptedSince}
		}
	}
	same(t, "EncryptedRooms", must[map[id.RoomID]EncryptedRoom](t)(db.EncryptedRooms(ctx, []id.RoomID{"!r1", "!r2", "!none"})), encrypted)
	seen := must[map[[32]byte]bool](t)(db.Seen(ctx, acct, dev.ID, [][32]byte{{2}, {3}}))
	same(t, "Seen", seen, map[[32]byte]bool{{2}: true})
}

func checkSessions(t *testing.T, db *DB, acct *Account, dev int64, c *Changes) {
	t.Helper()
	ctx := t.Context()
	olm := must[map[string][]OlmSession](t)(db.OlmSessions(ctx, acct, dev, []string{"curveA", "curveB", "curveC", "curveA"}))
	same(t, "OlmSessions", olm, map[string][]OlmSession{
		"curveA": {c.OlmSessions[1], c.OlmSessions[0]}, "curveB": {c.OlmSessions[2]},
	})
	want := []SessionRef{ref("!r1", "m1"), ref("!r2", "m1"), ref("!r2", "m2")}
	in := must[map[SessionRef]InboundSession](t)(db.InboundSessions(ctx, acct, dev, want))
	same(t, "InboundSessions", in, map[SessionRef]InboundSession{want[0]: c.InboundSessions[0], want[1]: c.InboundSessions[2]})
	var all []InboundSession
	for s, err := range db.AllInboundSessions(ctx, acct, dev) {
		all = append(all, must[InboundSession](t)(s, err))
	}
	same(t, "AllInboundSessions", all, c.InboundSessions)
	all = nil
	for s, err := range db.InboundSessionsOfRoom(ctx, acct, dev, "!r1") {
		all = append(all, must[InboundSession](t)(s, err))
	}
	same(t, "InboundSessionsOfRoom", all, c.InboundSessions[:2])
	same(t, "CountToBackUp", must[int](t)(db.CountToBackUp(ctx, acct, dev, "3")), 2)
	same(t, "ToBackUp", len(must[[]InboundSession](t)(db.ToBackUp(ctx, acct, dev, "3", 1))), 1)
	indices := must[map[IndexRef]MessageIndex](t)(db.MessageIndices(ctx, acct, dev,
		[]IndexRef{{ref("!r1", "m1"), 7}, {ref("!r1", "m1"), 8}, {ref("!r1", "m1"), 1<<32 - 1}, {ref("!r1m1", ""), 7}}))
	same(t, "MessageIndices", indices, map[IndexRef]MessageIndex{
		c.MessageIndices[0].IndexRef: c.MessageIndices[0], c.MessageIndices[1].IndexRef: c.MessageIndices[1],
	})
	same(t, "LastIndices", must[map[SessionRef]uint32](t)(db.LastIndices(ctx, acct, dev,
		[]SessionRef{ref("!r1", "m1"), ref("!r1", "m1"), ref("!r1m1", "")})), map[SessionRef]uint32{ref("!r1", "m1"): 1<<32 - 1})
	same(t, "OutboundSession", must[OutboundSession](t)(db.OutboundSession(ctx, acct, dev, "!r1")), c.OutboundSessions[0])
	same(t, "Shares", must[[]Share](t)(db.Shares(ctx, acct, dev, "x1")), c.Shares)
	same(t, "Withheld", must[map[SessionRef]WithheldNote](t)(db.Withheld(ctx, acct, dev, []SessionRef{ref("!r3", "m9"), {}, ref("!x", "y")})),
		map[SessionRef]WithheldNote{ref("!r3", "m9"): c.Withheld[0], {}: c.Withheld[1]})
}

func checkQueues(t *testing.T, db *DB, acct *Account, dev int64, c *Changes) {
	t.Helper()
	ctx := t.Context()
	same(t, "Transaction", must[Transaction](t)(db.Transaction(ctx, acct, dev, c.Transactions[0].TxnRef)), c.Transactions[0])
	outbox := must[[]OutboxItem](t)(db.Outbox(ctx, acct, dev))
	for i := range outbox {
		if i > 0 && outbox[i].Seq <= outbox[i-1].Seq {
			t.Errorf("Outbox: number %d after %d", outbox[i].Seq, outbox[i-1].Seq)
		}
		outbox[i].Seq = 0
	}
	same(t, "Outbox", outbox, c.Outbox)
	inbox := must[[]InboxItem](t)(db.Inbox(ctx, acct, dev, 10))
	for i := range inbox {
		inbox[i].Seq = 0
	}
	same(t, "Inbox", inbox, c.Inbox)
	same(t, "PendingCount", must[int](t)(db.PendingCount(ctx, acct, dev)), 3)
	same(t, "Pending", len(must[[]PendingEvent](t)(db.Pending(ctx, acct, dev, 10))), 0)
}

func checkAccount(t *testing.T, db *DB, acct *Account, c *Changes) {
	t.Helper()
	ctx := t.Context()
	users := must[map[id.UserID]User](t)(db.Users(ctx, acct, []id.UserID{"@bob:hs", "@carol:hs", "@dave:hs"}))
	same(t, "Users", users, map[id.UserID]User{"@bob:hs": c.Users[0], "@carol:hs": c.Users[1]})
	same(t, "TrackedUsers", must[[]id.UserID](t)(db.TrackedUsers(ctx, acct)), []id.UserID{"@bob:hs", "@carol:hs"})
	same(t, "OutdatedUsers", must[[]id.UserID](t)(db.OutdatedUsers(ctx, acct)), []id.UserID{"@bob:hs"})
	devices := must[map[id.UserID][]UserDevice](t)(db.UserDevices(ctx, acct, []id.UserID{"@bob:hs", "@dave:hs"}))
	same(t, "UserDevices", devices, map[id.UserID][]UserDevice{"@bob:hs": c.UserDevices})
	var exceptions []UserDevice
	for _, d := range c.UserDevices {
		if d.Override != nil {
			exceptions = append(exceptions, d)
		}
	}
	same(t, "DeviceExceptions", must[[]UserDevice](t)(db.DeviceExceptions(ctx, acct)), exceptions)
	changes := must[[]UserChange](t)(db.UserChanges(ctx, acct, "@bob:hs"))
	for i := range changes {
		changes[i].Seq = 0
	}
	same(t, "UserChanges", changes, c.UserChanges)
	same(t, "Secret", must[Secret](t)(db.Secret(ctx, acct, "recovery")), c.Secrets[0])
	same(t, "Secrets", must[[]Secret](t)(db.Secrets(ctx, acct)), c.Secrets)
	same(t, "Warnings", must[[]Warning](t)(db.Warnings(ctx, acct)), c.Warnings)
	unread := must[map[id.RoomID]secret.Bytes](t)(db.Unread(ctx, acct, []id.RoomID{"!r1", "!r1", "!gone", "!r9"}))
	if raw, ok := unread["!r1"]; ok { // version 9 was the first with them
		same(t, "Unread", raw, c.Unread[0].State)
		delete(unread, "!r1")
	}
	same(t, "rooms without unread messages", len(unread), 0)
	if listed := must[secret.Bytes](t)(db.Notifications(ctx, acct)); listed != nil { // version 13 was the first with them
		same(t, "Notifications", listed, *c.Notifications)
	}
	if room := must[secret.Bytes](t)(db.ControlRoom(ctx, acct)); room != nil { // version 17 was the first with one
		same(t, "ControlRoom", room, c.ControlRoom)
	}
}

func TestAbsentRowsAreNotFound(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		ctx := t.Context()
		for what, read := range map[string]func() error{
			"LookupAccount":   func() error { _, err := db.LookupAccount(ctx, "@nobody:hs"); return err },
			"Device":          func() error { _, err := db.Device(ctx, acct, "B"); return err },
			"OutboundSession": func() error { _, err := db.OutboundSession(ctx, acct, dev.ID, "!r"); return err },
			"Transaction":     func() error { _, err := db.Transaction(ctx, acct, dev.ID, TxnRef{}); return err },
			"Secret":          func() error { _, err := db.Secret(ctx, acct, "none"); return err },
			"DeleteDevice":    func() error { return db.DeleteDevice(ctx, acct, dev.ID+1) },
		} {
			if err := read(); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: got %v, want ErrNotFound", what, err)
			}
		}
		if _, err := db.CreateDevice(ctx, acct, Device{DeviceID: "A"}); !errors.Is(err, ErrExists) {
			t.Errorf("second device A: got %v, want ErrExists", err)
		}
	})
}

// TestDeletionsComeBeforeUpserts holds what changes.go promises.
func TestDeletionsComeBeforeUpserts(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		save(t, db, acct, dev.ID, everything())
		olm := OlmSession{SessionID: "o1", TheirKey: "curveA", With: "edA", Pickle: []byte("again"), CreatedAt: at(1)}
		save(t, db, acct, dev.ID, &Changes{
			DeleteOlmSessions: []string{"o1", "o2", "o3"}, OlmSessions: []OlmSession{olm},
			DeleteDevices: []DeviceRef{{"@bob:hs", "B1"}, {"@bob:hs", "B2"}},
			UserDevices:   []UserDevice{{UserID: "@bob:hs", DeviceID: "B2", Ed25519: "new"}},
			DeleteSecrets: []string{"recovery"}, Secrets: []Secret{{Name: "recovery", Value: []byte("new")}},
			DeleteOutbox: []string{"out0", "out1"}, Outbox: []OutboxItem{{TxnID: "out1", Body: []byte(`{"messages":{}}`)}},
			DeleteWithheld: []SessionRef{{}}, DeletePending: []id.EventID{"$p0"},
		})
		sessions := must[map[string][]OlmSession](t)(db.OlmSessions(t.Context(), acct, dev.ID, []string{"curveA", "curveB"}))
		same(t, "OlmSessions", sessions, map[string][]OlmSession{"curveA": {olm}})
		devices := must[map[id.UserID][]UserDevice](t)(db.UserDevices(t.Context(), acct, []id.UserID{"@bob:hs"}))
		same(t, "UserDevices", devices, map[id.UserID][]UserDevice{"@bob:hs": {{UserID: "@bob:hs", DeviceID: "B2", Ed25519: "new"}}})
		same(t, "Secret", string(must[Secret](t)(db.Secret(t.Context(), acct, "recovery")).Value.Reveal()), "new")
		outbox := must[[]OutboxItem](t)(db.Outbox(t.Context(), acct, dev.ID))
		same(t, "Outbox", []any{len(outbox), string(outbox[0].Body)}, []any{1, `{"messages":{}}`})
		same(t, "Withheld", len(must[map[SessionRef]WithheldNote](t)(db.Withheld(t.Context(), acct, dev.ID, []SessionRef{{}}))), 0)
		same(t, "PendingCount", must[int](t)(db.PendingCount(t.Context(), acct, dev.ID)), 2)
	})
}

// TestSameKeyTwiceInOneSave keeps the last row, or the first where the first write wins.
func TestSameKeyTwiceInOneSave(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		c, again := everything(), everything()
		again.Outbox[0].Body = json.RawMessage(`{"messages":{"other":{}}}`)
		again.OlmSessions[0].Pickle = []byte("second")
		again.MessageIndices[0].EventID = "$other"
		again.Shares[1].Withheld = ""
		double := &Changes{
			OlmSessions: append(c.OlmSessions, again.OlmSessions...), InboundSessions: append(c.InboundSessions, again.InboundSessions...),
			MessageIndices: append(c.MessageIndices, again.MessageIndices...), Shares: append(c.Shares, again.Shares...),
			OutboundSessions: append(c.OutboundSessions, again.OutboundSessions...),
			Transactions:     append(c.Transactions, again.Transactions...), Outbox: append(c.Outbox, again.Outbox...),
			Rooms: append(c.Rooms, again.Rooms...), Pending: append(c.Pending, again.Pending...), Withheld: append(c.Withheld, again.Withheld...),
			Seen: append(c.Seen, again.Seen...), Users: append(c.Users, again.Users...), UserDevices: append(c.UserDevices, again.UserDevices...),
			Secrets: append(c.Secrets, again.Secrets...), Warnings: append(c.Warnings, again.Warnings...),
			Owners:        []SessionOwner{{ref("!r1", "m1"), []byte("a")}, {ref("!r1", "m1"), []byte("b")}},
			Backed:        []BackedSession{{ref("!r1", "m1"), 7, at(1), "1"}, {ref("!r1", "m1"), 7, at(1), "1"}},
			OutdatedUsers: []id.UserID{"@bob:hs", "@bob:hs"}, DeletePending: []id.EventID{"$no", "$no"},
		}
		save(t, db, acct, dev.ID, double)
		ctx := t.Context()
		sessions := must[map[string][]OlmSession](t)(db.OlmSessions(ctx, acct, dev.ID, []string{"curveA"}))
		same(t, "Olm pickle", string(sessions["curveA"][1].Pickle.Reveal()), "second")
		want := c.MessageIndices[0].IndexRef
		same(t, "index", must[map[IndexRef]MessageIndex](t)(db.MessageIndices(ctx, acct, dev.ID, []IndexRef{want}))[want].EventID, id.EventID("$e1"))
		same(t, "shares", must[[]Share](t)(db.Shares(ctx, acct, dev.ID, "x1"))[1].Withheld, "")
		same(t, "outbox", string(must[[]OutboxItem](t)(db.Outbox(ctx, acct, dev.ID))[0].Body), `{"messages":{"1":{}}}`)
		in := must[map[SessionRef]InboundSession](t)(db.InboundSessions(ctx, acct, dev.ID, []SessionRef{ref("!r1", "m1")}))[ref("!r1", "m1")]
		same(t, "owner", []string{string(in.Owner.Reveal()), in.BackupVersion}, []string{"b", "1"})
	})
}

func TestAccountsAndDevicesAreApart(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		a, a1 := device(t, db, alice, "A")
		_, a2 := device(t, db, alice, "A2")
		b, b1 := device(t, db, "@bob:hs", "A")
		save(t, db, a, a1.ID, everything())
		for what, who := range map[string]struct {
			acct *Account
			dev  int64
		}{"other device": {a, a2.ID}, "other account": {b, b1.ID}, "other account, our device": {b, a1.ID}} {
			if n := countVisible(t, db, who.acct, who.dev); n != 0 {
				t.Errorf("%s sees %d rows", what, n)
			}
		}
		for _, c := range []*Changes{
			{OlmSessions: everything().OlmSessions}, {Rooms: everything().Rooms}, {Inbox: everything().Inbox},
			{Shares: everything().Shares}, {SyncPosition: new(string)},
		} {
			if err := db.Save(t.Context(), b, a1.ID, c); !errors.Is(err, ErrNotFound) {
				t.Errorf("saving to a device of another account: got %v, want ErrNotFound", err)
			}
		}
		if err := db.Save(t.Context(), a, 0, everything()); err == nil {
			t.Error("changes of a device were saved without one")
		}
		if err := db.DeleteDevice(t.Context(), b, a1.ID); !errors.Is(err, ErrNotFound) {
			t.Errorf("deleting a device of another account: got %v, want ErrNotFound", err)
		}
	})
}

// countVisible counts the rows of a device that the readers show.
func countVisible(t *testing.T, db *DB, acct *Account, dev int64) int {
	t.Helper()
	ctx := t.Context()
	n := len(must[map[string][]OlmSession](t)(db.OlmSessions(ctx, acct, dev, []string{"curveA", "curveB"})))
	n += len(must[map[SessionRef]InboundSession](t)(db.InboundSessions(ctx, acct, dev, []SessionRef{ref("!r1", "m1")})))
	for range db.AllInboundSessions(ctx, acct, dev) {
		n++
	}
	for range db.InboundSessionsOfRoom(ctx, acct, dev, "!r1") {
		n++
	}
	n += must[int](t)(db.CountToBackUp(ctx, acct, dev, "9"))
	n += len(must[map[IndexRef]MessageIndex](t)(db.MessageIndices(ctx, acct, dev, []IndexRef{{ref("!r1", "m1"), 7}})))
	n += len(must[map[SessionRef]uint32](t)(db.LastIndices(ctx, acct, dev, []SessionRef{ref("!r1", "m1")})))
	if _, err := db.OutboundSession(ctx, acct, dev, "!r1"); !errors.Is(err, ErrNotFound) {
		n++
	}
	if _, err := db.Transaction(ctx, acct, dev, TxnRef{"!r1", "m.room.message", "t1"}); !errors.Is(err, ErrNotFound) {
		n++
	}
	n += len(must[[]Share](t)(db.Shares(ctx, acct, dev, "x1")))
	n += len(must[[]OutboxItem](t)(db.Outbox(ctx, acct, dev)))
	n += len(must[[]InboxItem](t)(db.Inbox(ctx, acct, dev, 10)))
	n += len(must[map[id.RoomID]Room](t)(db.Rooms(ctx, acct, dev, nil)))
	n += len(must[map[SessionRef]WithheldNote](t)(db.Withheld(ctx, acct, dev, []SessionRef{ref("!r3", "m9")})))
	n += len(must[map[[32]byte]bool](t)(db.Seen(ctx, acct, dev, [][32]byte{{1}})))
	return n + must[int](t)(db.PendingCount(ctx, acct, dev))
}

func TestDeleting(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, first := device(t, db, alice, "A")
		_, second := device(t, db, alice, "B")
		save(t, db, acct, first.ID, everything())
		save(t, db, acct, second.ID, everything())
		if err := db.DeleteDevice(t.Context(), acct, first.ID); err != nil {
			t.Fatal(err)
		}
		same(t, "rows of the deleted device", countVisible(t, db, acct, first.ID), 0)
		if countVisible(t, db, acct, second.ID) == 0 {
			t.Error("the other device lost its rows")
		}
		if err := db.Save(t.Context(), acct, first.ID, everything()); !errors.Is(err, ErrNotFound) {
			t.Errorf("saving to the deleted device: got %v, want ErrNotFound", err)
		}
		// A device ID may be used again (requirement 2.8); the new device has a row of its own.
		if _, again := device(t, db, alice, "A"); again.ID == first.ID || again.ID == second.ID {
			t.Errorf("row %d was given out again", again.ID)
		}
		if err := db.DeleteAccount(t.Context(), acct); err != nil {
			t.Fatal(err)
		}
		for table, n := range rowCounts(t, db) {
			// What outlives an account stands under a keyed hash, or in the audit log.
			stays := []string{
				"meta", "restore_mark", "lease", "schema_version", "encrypted_rooms", "forgotten_devices",
				"audit_records", "audit_hashes", "audit_head",
			}
			if n != 0 && !slices.Contains(stays, table) {
				t.Errorf("%d rows of the deleted account are left in %s", n, table)
			}
		}
		if err := db.Save(t.Context(), acct, 0, &Changes{Users: everything().Users}); !errors.Is(err, ErrNotFound) {
			t.Errorf("saving to the deleted account: got %v, want ErrNotFound", err)
		}
		if _, err := db.CreateDevice(t.Context(), acct, Device{DeviceID: "C"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("a device of the deleted account: got %v, want ErrNotFound", err)
		}
	})
}

func TestPruning(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		acct, dev := device(t, db, alice, "A")
		save(t, db, acct, dev.ID, everything())
		many := manyShares(2500)
		for i := range many {
			many[i].SessionID = "gone"
		}
		save(t, db, acct, dev.ID, &Changes{Shares: many})
		ctx := t.Context()
		for _, prune := range []struct {
			what string
			run  func(time.Time) (int64, error)
			at   time.Time
			want int64
		}{
			{"seen", func(b time.Time) (int64, error) { return db.PruneSeen(ctx, b) }, at(2), 1},
			{"pending", func(b time.Time) (int64, error) { return db.PrunePending(ctx, b) }, at(3), 2},
			{"transactions", func(b time.Time) (int64, error) { return db.PruneTransactions(ctx, b) }, at(1), 0},
			{"transactions", func(b time.Time) (int64, error) { return db.PruneTransactions(ctx, b) }, at(2), 1},
			{"shares", func(time.Time) (int64, error) { return db.PruneShares(ctx) }, at(0), 1},
		} {
			same(t, prune.what, must[int64](t)(prune.run(prune.at)), prune.want)
		}
		same(t, "shares of the current session", len(must[[]Share](t)(db.Shares(ctx, acct, dev.ID, "x1"))), 2)
	})
}

// A round over all devices names those whose keys are held here and that have a token.
func TestOwnDevices(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, url string) {
		db := open(t, options(t, url))
		want := []DeviceRef{}
		for i := range 3 {
			acct := must[*Account](t)(db.Account(t.Context(), id.UserID(fmt.Sprintf("@own%d:hs", i))))
			for name, d := range map[id.DeviceID]Device{
				"OURS": {State: DeviceOurs, Token: secretString("t")}, "GONE": {State: DeviceOurs},
				"FOREIGN": {State: DeviceForeign, Token: secretString("t")}, "UNKNOWN": {Token: secretString("t")},
			} {
				d.DeviceID = name
				must[Device](t)(db.CreateDevice(t.Context(), acct, d))
			}
			want = append(want, DeviceRef{acct.UserID, "OURS"})
		}
		got := []DeviceRef{}
		for ref, err := range db.OwnDevices(t.Context()) {
			got = append(got, must[DeviceRef](t)(ref, err))
		}
		same(t, "OwnDevices", got, want)
	})
}
