package e2ee_test

import (
	"context"
	"database/sql"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // for what happens to the database from outside
	"maunium.net/go/mautrix/id"

	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testpg"
	"e2ee-proxy/store"
)

// postgres is stopped by TestMain.
var postgres testpg.Server

// cluster are processes on one database, before one homeserver.
type cluster struct {
	t  *testing.T
	hs *liar.Server
	// url is that of the database.
	url string
	raw *sql.DB
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, hs: liar.New(t), url: postgres.Database(t)}
	raw, err := sql.Open("pgx", c.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	c.raw = raw
	return c
}

// at is where a replica can be reached by others.
func at(name string) string { return "http://" + name + ".test" }

// join starts another process. It claims nothing by itself unless change says so.
func (c *cluster) join(name string, change func(*e2ee.Options)) *rig {
	c.t.Helper()
	var engine atomic.Pointer[e2ee.Engine]
	r := &rig{t: c.t, hs: c.hs, opts: unspread(func(o *e2ee.Options) {
		o.ClaimEvery, o.ShareEvery = time.Hour, time.Hour
		if change != nil {
			change(o)
		}
	})}
	r.data = func(o *store.Options) {
		// Whether it has died is what the test says, and not what a busy machine does.
		o.URL, o.MaxConns, o.Lease = secret.NewString(c.url), 6, time.Hour
		o.Cluster = &store.Cluster{Advertise: at(name), Lost: func(a *store.Account) {
			if e := engine.Load(); e != nil {
				e.Lost(a)
			}
		}}
	}
	c.t.Cleanup(r.stop)
	r.start()
	engine.Store(r.eng)
	return r
}

// takenForDead has the others take a replica for dead, which does not know it.
func (c *cluster) takenForDead(name string) {
	c.t.Helper()
	res, err := c.raw.ExecContext(c.t.Context(), "UPDATE replicas SET expires_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - 1 WHERE advertise = $1", at(name))
	if err != nil {
		c.t.Fatal(err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		c.t.Fatalf("%d replicas are taken for dead: %v", n, err)
	}
}

// position returns where a device's syncs go on.
func (c *cluster) position(s liar.Session) string {
	c.t.Helper()
	var position string
	row := c.raw.QueryRowContext(c.t.Context(), "SELECT d.sync_position FROM devices d JOIN accounts a ON a.id = d.account WHERE a.user_id = $1 AND d.device_id = $2", s.UserID, s.DeviceID)
	if err := row.Scan(&position); err != nil {
		c.t.Fatal(err)
	}
	return position
}

// owner returns where the owner of an account can be reached, empty when it has none.
func (c *cluster) owner(user string) string {
	c.t.Helper()
	var where sql.NullString
	row := c.raw.QueryRowContext(c.t.Context(), "SELECT (SELECT advertise FROM replicas WHERE name = a.owner) FROM accounts a WHERE user_id = $1", user)
	if err := row.Scan(&where); err != nil {
		c.t.Fatal(err)
	}
	return where.String
}

// handOver gives the account of the stage to another process, and has the stage use it there.
func (st *stage) handOver(to *rig) {
	st.t.Helper()
	if err := st.eng.HandOver(st.t.Context(), id.UserID(st.alice.UserID)); err != nil {
		st.t.Fatal(err)
	}
	st.rig = to
	st.dev = st.device(st.alice)
}

// keyUploads returns the requests that upload keys.
func keyUploads(hs *liar.Server) []*liar.Request {
	return hs.Requests(liar.Is(http.MethodPost, "keys/upload$"))
}

// wantNoKeyTwice fails when a one-time key was uploaded twice.
func wantNoKeyTwice(t *testing.T, all []*liar.Request) {
	t.Helper()
	seen := make(map[string]bool)
	for _, r := range all {
		var body struct {
			Keys map[string]struct {
				Key string `json:"key"`
			} `json:"one_time_keys"`
		}
		if err := r.JSON(&body); err != nil {
			t.Fatal(err)
		}
		for name, key := range body.Keys {
			if seen[key.Key] {
				t.Errorf("the one-time key %s was uploaded twice", name)
			}
			seen[key.Key] = true
		}
	}
}

// own claims an account for a request.
func (r *rig) own(s liar.Session) (done func()) {
	r.t.Helper()
	done, err := r.eng.Own(context.WithoutCancel(r.t.Context()), id.UserID(s.UserID))
	if err != nil {
		r.t.Fatal(err)
	}
	return done
}
