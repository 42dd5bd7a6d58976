package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"e2ee-proxy/store/internal/sqlio"
)

const (
	pgConns    = 16
	pgConnLife = time.Hour
	pgConnIdle = 5 * time.Minute
)

func openPostgres(ctx context.Context, url string, db *DB, o Options) (*backend, error) {
	l := db.lease
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		// Its text may hold the URL.
		return nil, withHint(errors.New("PostgreSQL URL cannot be parsed"), "postgres://USER:PASSWORD@HOST/DATABASE")
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "e2ee-proxy"
	}
	if !o.ReadOnly && cfg.ValidateConnect == nil {
		// A standby would let us read what was long ago.
		cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	var c driver.Connector = &pgConnector{stdlib.GetConnector(*cfg, stdlib.OptionAfterConnect(l.prepareConn)), l}
	if o.Wrap != nil {
		c = o.Wrap(c)
	}
	pool := sql.OpenDB(c)
	conns := o.MaxConns
	if conns <= 0 {
		conns = pgConns
	}
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	pool.SetConnMaxLifetime(pgConnLife)
	pool.SetConnMaxIdleTime(pgConnIdle)
	if err := pool.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to PostgreSQL: %w", err), pool.Close())
	}
	d := sqlio.PostgreSQL()
	b := &backend{
		dialect: d, texts: sqlio.NewTextCache(d), reader: sqlio.NewReader(pool, false), writer: readOnly{},
		place: pgPlace, release: func() error { return nil },
	}
	if o.ReadOnly {
		return b, nil
	}
	b.writer = &pgWriter{db: pool, texts: b.texts, lease: l, refused: db.refused}
	if o.MarkFile != "" {
		if b.beatFile, err = openMark(o.MarkFile); err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	return b, nil
}

// prepareConn refuses a server that has replaced the one with our lease, and a database
// that cannot hold every text. It sets nothing: behind a pooler, the session may be others'.
func (l *lease) prepareConn(ctx context.Context, c *pgx.Conn) error {
	if enc := c.PgConn().ParameterStatus("server_encoding"); enc != "UTF8" {
		return withHint(fmt.Errorf("the database's encoding is %s", enc), "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0")
	}
	if l.token() != (token{}) {
		now, err := pgServer(ctx, func(ctx context.Context, q string, to *string) error { return c.QueryRow(ctx, q).Scan(to) })
		if err == nil {
			err = l.checkServer(now)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
