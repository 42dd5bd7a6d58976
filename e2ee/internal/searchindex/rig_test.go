package searchindex

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // for what somebody does to the database
	"github.com/rs/zerolog"
	"maunium.net/go/mautrix/id"
	_ "modernc.org/sqlite" // the same

	"e2ee-proxy/e2ee/internal/core"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testpg"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/store"
)

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
		test(t, "sqlite:"+filepath.Join(testproc.FastDir(t), "e2ee.db"))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, postgres.Database(t))
	})
}

// rig is an account with an index and a device.
type rig struct {
	t    testing.TB
	url  string
	opts Options
	db   *store.DB
	env  *core.Env
	acct *Account
	dev  *core.Device
	stop context.CancelFunc
}

func newRig(t testing.TB, url string, o Options) *rig {
	t.Helper()
	r := &rig{t: t, url: url, opts: o}
	r.start()
	t.Cleanup(r.end)
	return r
}

func (r *rig) start() {
	r.t.Helper()
	key, err := store.NewMasterKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		r.t.Fatal(err)
	}
	r.db, err = store.Open(context.Background(), store.Options{URL: secret.NewString(r.url), MasterKeys: store.MasterKeys{Current: key}})
	if err != nil {
		r.t.Fatal(err)
	}
	row, err := r.db.Account(context.Background(), "@alice:hs")
	if err != nil {
		r.t.Fatal(err)
	}
	dev, err := r.db.Device(context.Background(), row, "A")
	if err != nil {
		if dev, err = r.db.CreateDevice(context.Background(), row, store.Device{DeviceID: "A"}); err != nil {
			r.t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.env = &core.Env{Store: r.db, Now: time.Now, Log: zerolog.Nop(), Context: ctx}
	shared, err := NewShared(r.env, r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := shared.Start(context.Background(), r.env); err != nil {
		r.t.Fatal(err)
	}
	account := &core.Account{Env: r.env, User: "@alice:hs", Row: row}
	index := New(account, shared)
	r.acct = &index
	r.dev = &core.Device{Env: r.env, Account: account, Self: core.Self{RowID: dev.ID}}
}

func (r *rig) end() {
	if r.db == nil {
		return
	}
	r.stop()
	r.env.WG.Wait()
	if err := r.db.Close(); err != nil {
		r.t.Error(err)
	}
	r.db = nil
}

func (r *rig) restart() { r.end(); r.start() }

// said returns an entry whose number is its time.
func said(n int, text string) Entry {
	return Entry{
		Room: "!r:hs", Event: id.EventID(fmt.Sprintf("$event%d", n)), Sender: "@bob:hs", At: int64(n), Type: "m.room.message",
		Texts: Texts{KeyBody: text},
	}
}

func edit(n, of int, text string) Entry {
	e := said(of, text)
	e.Source, e.SourceAt, e.At = id.EventID(fmt.Sprintf("$event%d", n)), int64(n), int64(n)
	return e
}

func (r *rig) add(entries ...Entry) {
	r.t.Helper()
	r.update(Update{Entries: entries})
}

func (r *rig) update(u Update) {
	r.t.Helper()
	if err := r.acct.Update(context.Background(), r.dev, u); err != nil {
		r.t.Fatal(err)
	}
}

// query returns a query for a text, in one room.
func query(text string) Query {
	return Query{Term: NewTerm(text), Keys: []Key{KeyBody, KeyName, KeyTopic}, Rooms: []id.RoomID{"!r:hs"}, Recent: true, Limit: 100}
}

func (r *rig) search(q Query) Result {
	r.t.Helper()
	found, err := r.acct.Search(context.Background(), r.dev, q)
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

// want fails unless a query finds these events, in this order.
func (r *rig) want(q Query, numbers ...int) Result {
	r.t.Helper()
	found := r.search(q)
	var got, want []string
	for _, h := range found.Hits {
		got = append(got, h.Event.String())
	}
	for _, n := range numbers {
		want = append(want, fmt.Sprintf("$event%d", n))
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("found %v, want %v", got, want)
	}
	return found
}

// raw runs statements behind the store's back. The database is closed meanwhile.
func (r *rig) raw(statements ...string) {
	r.t.Helper()
	r.end()
	driver, dsn := "pgx", r.url
	if path, lite := strings.CutPrefix(r.url, "sqlite:"); lite {
		driver, dsn = "sqlite", path
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range statements {
		res, err := db.ExecContext(context.Background(), s)
		if err != nil {
			r.t.Fatal(err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			r.t.Fatalf("%s: %d rows, %v", s, n, err)
		}
	}
	if err := db.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.start()
}

func newDevice(r *rig, acct *core.Account, row int64) *core.Device {
	return &core.Device{Env: r.env, Account: acct, Self: core.Self{RowID: row}}
}
