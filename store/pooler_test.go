package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"io"
	"net"
	neturl "net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"e2ee-proxy/internal/secret"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/store/internal/sqlio"
)

// pooler stands between a proxy and PostgreSQL as poolers in transaction mode do: a session of
// the proxy has a connection to the server for one transaction, and then another one.
type pooler struct {
	tb  testing.TB
	dir string

	mu     sync.Mutex
	server *pgconn.Config
	idle   []*pgconn.HijackedConn // the longest unused first
	params map[string]string
	all    []net.Conn
}

// newPooler returns a pooler with two connections at least, and the URL by which it is reached.
func newPooler(t *testing.T, server string) (p *pooler, url string) {
	t.Helper()
	p = &pooler{tb: t, dir: testproc.FastDir(t)}
	p.to(server)
	l, err := net.Listen("unix", filepath.Join(p.dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	var sessions sync.WaitGroup
	sessions.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.keep(c)
			sessions.Go(func() {
				defer func() { _ = c.Close() }()
				if err := p.serve(c); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) {
					t.Log("pooler:", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.all {
			_ = c.Close()
		}
		p.mu.Unlock()
		sessions.Wait()
	})
	return p, "postgres:///" + p.server.Database + "?host=" + p.dir + "&user=postgres"
}

func (p *pooler) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, c)
}

// to has transactions go to another server from now on, as after a failover.
func (p *pooler) to(server string) {
	cfg, err := pgconn.ParseConfig(server)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.mu.Lock()
	p.server, p.idle = cfg, nil
	p.mu.Unlock()
	one, other := p.get(), p.get()
	p.mu.Lock()
	p.params = one.ParameterStatuses
	p.mu.Unlock()
	p.put(one)
	p.put(other)
}

func (p *pooler) get() *pgconn.HijackedConn {
	p.mu.Lock()
	if len(p.idle) > 0 {
		c := p.idle[0]
		p.idle = p.idle[1:]
		p.mu.Unlock()
		return c
	}
	cfg := p.server
	p.mu.Unlock()
	c, err := pgconn.ConnectConfig(context.Background(), cfg)
	if err != nil {
		p.tb.Error(err)
		return nil
	}
	h, err := c.Hijack()
	if err != nil {
		p.tb.Error(err)
		return nil
	}
	p.keep(h.Conn)
	return h
}

func (p *pooler) put(c *pgconn.HijackedConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
}

func (p *pooler) serve(client net.Conn) error {
	b := pgproto3.NewBackend(client, client)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return err
	}
	b.Send(&pgproto3.AuthenticationOk{})
	p.mu.Lock()
	for name, value := range p.params {
		b.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
	}
	p.mu.Unlock()
	b.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{0, 0, 0, 1}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := b.Flush(); err != nil {
		return err
	}
	for {
		done, err := p.transaction(client)
		if done || err != nil {
			return err
		}
	}
}

// transaction carries one transaction.
func (p *pooler) transaction(client net.Conn) (done bool, err error) {
	var server *pgconn.HijackedConn
	for {
		kind, whole, err := readMessage(client)
		if err != nil || kind == 'X' {
			return true, err
		}
		if server == nil {
			if server = p.get(); server == nil {
				return true, errors.New("no server")
			}
		}
		if _, err := server.Conn.Write(whole); err != nil {
			return true, err
		}
		if kind != 'S' && kind != 'Q' {
			continue
		}
		status, err := forwardAnswer(client, server.Conn)
		if err != nil {
			return true, err
		}
		if status == 'I' {
			p.put(server)
			return false, nil
		}
	}
}

// forwardAnswer carries what the server says until it is ready again.
func forwardAnswer(client io.Writer, server io.Reader) (status byte, err error) {
	for {
		kind, whole, err := readMessage(server)
		if err != nil {
			return 0, err
		}
		if _, err := client.Write(whole); err != nil {
			return 0, err
		}
		if kind == 'Z' {
			return whole[5], nil
		}
	}
}

func readMessage(from io.Reader) (kind byte, whole []byte, err error) {
	head := make([]byte, 5)
	if _, err := io.ReadFull(from, head); err != nil {
		return 0, nil, err
	}
	whole = make([]byte, 1+binary.BigEndian.Uint32(head[1:]))
	copy(whole, head)
	_, err = io.ReadFull(from, whole[5:])
	return head[0], whole, err
}

// Behind a pooler in transaction mode no two transactions of a session are sure to have the
// same connection. Nothing may be in the session that a transaction needs, or that another
// user of the pooler finds there.
func TestBehindATransactionPooler(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := postgres.Database(t)
	operator := bare(t, server)
	do(t, operator, "ALTER DATABASE "+filepath.Base(strings.SplitN(server, "?", 2)[0])+" SET synchronous_commit = off")
	_ = operator.Close() // nothing is under way
	_, url := newPooler(t, server)
	url += "&default_query_exec_mode=cache_describe"
	for _, o := range []Options{options(t, url), {
		URL: secret.NewString(url), MasterKeys: MasterKeys{Current: testKey(t, 1)}, Audit: true, Cluster: &Cluster{}, Lease: time.Second,
	}} {
		var h hook
		o.Wrap, o.MaxConns = h.wrap, 3
		db := open(t, o)
		acct, dev := device(t, db, alice, "A")
		for i := range 20 {
			save(t, db, acct, dev.ID, &Changes{Rooms: []Room{{RoomID: "!r"}}, OutboundSessions: []OutboundSession{{
				RoomID: "!r", SessionID: "s", Pickle: []byte("p"), CreatedAt: at(1), Messages: uint32(i + 1),
			}}})
		}
		save(t, db, acct, dev.ID, rest())
		must[[]Replica](t)(db.Replicas(ctx))
		for range 3 {
			db.renew(ctx)
			if err := db.Ping(ctx); err != nil {
				t.Fatal(err)
			}
		}
		within := ""
		err := db.writer.run(ctx, func(ctx context.Context, x *sqlio.Tx) error {
			return x.Rows(ctx, "SELECT current_setting('synchronous_commit') || current_setting('idle_in_transaction_session_timeout')", nil,
				func(r *sql.Rows) error { return r.Scan(&within) })
		})
		if err != nil || !strings.HasPrefix(within, "on") || within == "on0" {
			t.Errorf("in a transaction: %q, %v", within, err)
		}
		outside := column(t, db, "SELECT current_setting('synchronous_commit') || current_setting('idle_in_transaction_session_timeout')")
		same(t, "outside", string(outside[0]), "off0")
		same(t, "locks that outlive their transaction", len(column(t, db, "SELECT '1' FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")), 0)
		if err := db.DeleteAccount(ctx, acct); err != nil {
			t.Fatal(err)
		}
		closeDB(t, db)
	}
}

// A pooler that does not keep prepared statements is told from a broken database.
func TestPoolerWithoutPreparedStatements(t *testing.T) {
	t.Parallel()
	_, url := newPooler(t, postgres.Database(t))
	if _, err := Open(t.Context(), options(t, url)); err == nil || !strings.Contains(err.Error(), "cache_describe") {
		t.Errorf("got %v", err)
	}
}

// A URL may name several servers, of which one takes writes. The others are standbys that know
// what was long ago: they are not asked, whatever the order.
func TestOnlyAServerThatTakesWrites(t *testing.T) {
	t.Parallel()
	server := postgres.Database(t)
	standby, url := newPooler(t, server+"&default_transaction_read_only=on")
	db, err := Open(t.Context(), options(t, url))
	if err == nil {
		closeDB(t, db)
		t.Fatal("a server that takes no writes was opened")
	}
	two, err := neturl.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	q := two.Query()
	q.Set("host", standby.dir+","+q.Get("host"))
	two.RawQuery = q.Encode()
	device(t, open(t, options(t, two.String())), alice, "A")
}
