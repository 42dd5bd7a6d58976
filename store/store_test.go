package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/internal/audit"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testpg"
	"e2ee-proxy/internal/testproc"
)

// postgres is the server that all tests of this binary share, each with a database of its own.
var postgres testpg.Server

func TestMain(m *testing.M) {
	code := m.Run()
	if err := postgres.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
		code = 1
	}
	os.Exit(code)
}

// onBoth runs a test on a new database of each kind.
func onBoth(t *testing.T, test func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, liteURL(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, postgres.Database(t))
	})
}

func liteURL(tb testing.TB) string {
	tb.Helper()
	return "sqlite:" + filepath.Join(testproc.FastDir(tb), "e2ee.db")
}

func testKey(tb testing.TB, n byte) MasterKey {
	tb.Helper()
	k, err := NewMasterKey(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// testLease is short: tests leave databases open, or kill who has one. Nothing renews it
// unless the test does: a renewal is no statement that tests count.
const testLease = 200 * time.Millisecond

func options(tb testing.TB, url string) Options {
	tb.Helper()
	return Options{URL: secret.NewString(url), MasterKeys: MasterKeys{Current: testKey(tb, 1)}, Lease: testLease, Audit: true, renewTicks: make(chan time.Time)}
}

// open opens a database and closes it with the test.
func open(tb testing.TB, o Options) *DB {
	tb.Helper()
	db, err := Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = db.Close() }) // some tests close it themselves
	return db
}

func closeDB(tb testing.TB, db *DB) {
	tb.Helper()
	if err := db.Close(); err != nil {
		tb.Fatal(err)
	}
}

const alice = id.UserID("@alice:hs.example")

// device makes an account and a device.
func device(tb testing.TB, db *DB, user id.UserID, name id.DeviceID) (*Account, Device) {
	tb.Helper()
	acct, err := db.Claim(tb.Context(), user)
	if err != nil {
		tb.Fatal(err)
	}
	d, err := db.CreateDevice(tb.Context(), acct, Device{DeviceID: name, State: DeviceOurs, Olm: []byte("olm account " + string(name)), Token: secretString("token of " + string(name))})
	if err != nil {
		tb.Fatal(err)
	}
	return acct, d
}

func save(tb testing.TB, db *DB, acct *Account, dev int64, c *Changes) {
	tb.Helper()
	if err := db.Save(tb.Context(), acct, dev, c); err != nil {
		tb.Fatal(err)
	}
}

// must is for reading in tests: it fails the test when there is an error.
func must[T any](tb testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

// same compares; secrets are compared by their bytes, not by how they print.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	opts := cmp.Options{
		cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) }),
		cmp.Comparer(func(a, b secret.String) bool { return a.Reveal() == b.Reveal() }),
	}
	if diff := cmp.Diff(want, got, opts); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// at returns a time as the database keeps it.
func at(seconds int) time.Time { return time.Unix(1_800_000_000+int64(seconds), 123456000).UTC() }

func ref(room, session string) SessionRef {
	return SessionRef{RoomID: id.RoomID(room), SessionID: id.SessionID(session)}
}

// everything returns a Changes with something in every table.
func everything() *Changes {
	yes, position, events := true, "s1", secret.Bytes("events")
	return &Changes{
		SyncPosition: &position,
		Audit:        []*audit.Record{{At: at(1), Kind: audit.KindSecret, Secret: "one", Account: "@alice:hs"}, {At: at(2), Kind: audit.KindSecret, Secret: "two"}},
		OlmSessions: []OlmSession{
			{SessionID: "o1", TheirKey: "curveA", Pickle: []byte("pickle o1"), CreatedAt: at(1), LastReceivedAt: at(5)},
			{SessionID: "o2", TheirKey: "curveA", Pickle: []byte("pickle o2"), CreatedAt: at(2), LastReceivedAt: at(9)},
			{SessionID: "o3", TheirKey: "curveB", Pickle: []byte("pickle o3"), CreatedAt: at(3)},
		},
		InboundSessions: []InboundSession{
			{
				SessionRef: ref("!r1", "m1"), Pickle: []byte("pickle m1"), Owner: []byte(`{"owner":1}`), Source: SourceDirect,
				FirstIndex: 7, SharedHistory: true, ReceivedAt: at(1),
			},
			{SessionRef: ref("!r1", "m2"), Pickle: []byte("pickle m2"), Source: SourceBackup, ReceivedAt: at(2), BackupVersion: "3"},
			{SessionRef: ref("!r2", "m1"), Pickle: []byte("pickle m3"), Source: SourceImport, FirstIndex: 1<<32 - 1},
		},
		MessageIndices: []MessageIndex{
			{IndexRef: IndexRef{ref("!r1", "m1"), 7}, EventID: "$e1", Timestamp: 1234},
			{IndexRef: IndexRef{ref("!r1", "m1"), 1<<32 - 1}, EventID: "$e2", Timestamp: -1},
		},
		OutboundSessions: []OutboundSession{{
			RoomID: "!r1", SessionID: "x1", Pickle: []byte("pickle x1"), CreatedAt: at(1), Messages: 1,
			Settings: json.RawMessage(`{"a":1}`),
		}},
		Shares: []Share{
			{SessionID: "x1", UserID: "@bob:hs", DeviceID: "B1", Curve25519: "curveA", Index: 3},
			{SessionID: "x1", UserID: "@bob:hs", DeviceID: "B2", Curve25519: "curveB", Withheld: "m.unverified"},
		},
		Transactions: []Transaction{{
			TxnRef:     TxnRef{"!r1", "m.room.message", "t1"},
			Ciphertext: json.RawMessage(`{"ciphertext":"x"}`), CreatedAt: at(1),
		}},
		Outbox: []OutboxItem{
			{TxnID: "out1", EventType: "m.room.encrypted", Body: json.RawMessage(`{"messages":{"1":{}}}`), CreatedAt: at(1)},
			{TxnID: "out0", EventType: "m.room_key.withheld", Body: json.RawMessage(`{"messages":{"2":{}}}`), CreatedAt: at(2)},
		},
		Rooms: []Room{
			{
				RoomID: "!r1", Algorithm: "m.megolm.v1.aes-sha2", RotationPeriod: 604800 * time.Second, RotationMessages: 100,
				HistoryVisibility: "shared", EncryptedSince: at(1),
			},
			{RoomID: "!r2"},
		},
		Pending: []PendingEvent{
			{SessionRef: ref("!r3", "m9"), EventID: "$p1", Event: json.RawMessage(`{"p":1}`), ReceivedAt: at(1)},
			{SessionRef: ref("!r3", "m9"), EventID: "$p0", Event: json.RawMessage(`{"p":0}`), ReceivedAt: at(2)},
			{SessionRef: ref("!r3", "m8"), EventID: "$p2", From: "@bob:hs", Event: json.RawMessage(`{"p":2}`), ReceivedAt: at(3)},
		},
		Inbox:    []InboxItem{{Event: []byte(`{"to":"device"}`)}, {Event: []byte(`{"to":"device 2"}`)}},
		Withheld: []WithheldNote{{SessionRef: ref("!r3", "m9"), Code: "m.unverified", Reason: "no\x00 reason"}, {SessionRef: ref("", ""), Code: "m.no_olm"}},
		Seen:     []SeenMessage{{Digest: [32]byte{1}, At: at(1)}, {Digest: [32]byte{2}, At: at(2)}},
		Users: []User{
			{
				UserID: "@bob:hs", Tracked: true, Outdated: true, Failures: 3, RetryAt: at(9), Master: json.RawMessage(`{"m":1}`),
				SelfSigning: json.RawMessage(`{"s":1}`), UserSigning: json.RawMessage(`{"u":1}`), PinnedMaster: "pin",
				Verified: true, WasVerified: true, ChangedAt: at(8),
			},
			{UserID: "@carol:hs", Tracked: true},
		},
		UserChanges: []UserChange{
			{UserID: "@bob:hs", At: at(1), Kind: "pinned", Master: "k1"},
			{UserID: "@bob:hs", At: at(2), Kind: "changed", Previous: "k1", Master: "k2"},
		},
		UserDevices: []UserDevice{
			{UserID: "@bob:hs", DeviceID: "B1", Ed25519: "ed", Curve25519: "curveA", Keys: json.RawMessage(`{"k":1}`), Signed: true, Override: &yes},
			{UserID: "@bob:hs", DeviceID: "B2"},
		},
		Secrets:  []Secret{{Name: "recovery", Value: []byte("EsTx secret"), Meta: json.RawMessage(`{"v":1}`), CreatedAt: at(1)}},
		NewFiles: []File{{URI: "mxc://hs/new", Value: []byte(`{"new":1}`), CreatedAt: at(3), ExpiresAt: at(1 << 30)}},
		Files:    []File{{URI: "mxc://hs/file", Value: []byte(`{"file":1}`), CreatedAt: at(2)}},
		Warnings: []Warning{{ID: "w1", Code: "identity_changed", UserID: "@bob:hs", RoomIDs: []id.RoomID{"!r1", "!r2"}, Message: "Bob's …", Since: at(1), Dismissed: true}},
		Unread:   []UnreadRoom{{RoomID: "!r1", State: []byte("state of r1")}, {RoomID: "!gone"}},

		Notifications: &events, ControlRoom: secret.Bytes("a room"),
	}
}
