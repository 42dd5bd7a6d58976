package testpg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Standby starts a server that follows this one, which has a database already. Stop both.
func (s *Server) Standby(tb testing.TB) *Server {
	tb.Helper()
	n := &Server{}
	n.once.Do(func() { n.err = n.follow(tb.Context(), s) })
	if errors.Is(n.err, errMissing) && os.Getenv(requireAll) != "1" {
		tb.Skip(n.err)
	}
	if n.err != nil {
		tb.Fatalf("start standby: %v", n.err)
	}
	return n
}

func (s *Server) follow(ctx context.Context, primary *Server) error {
	bin, err := findBinaries()
	if err != nil {
		return err
	}
	if path, err := filepath.EvalSymlinks(filepath.Join(bin, "initdb")); err == nil {
		bin = filepath.Dir(path)
	}
	backup := filepath.Join(bin, "pg_basebackup")
	if _, err := os.Stat(backup); err != nil {
		return errMissing
	}
	if s.dir, err = os.MkdirTemp("/tmp", "testpg"); err != nil {
		return err
	}
	as, err := ordinaryUser(s.dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(s.dir))
	}
	data := filepath.Join(s.dir, "data")
	copying := exec.CommandContext(ctx, backup, "-D", data, "-h", primary.dir, "-U", "postgres", "-R", "-c", "fast", "--no-sync")
	copying.Dir, copying.SysProcAttr = s.dir, as
	if out, err := copying.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("pg_basebackup: %w: %s", err, out), os.RemoveAll(s.dir))
	}
	return s.launch(ctx, filepath.Join(bin, "postgres"), data)
}

// Follows returns the URL of a database of the server that this one follows, at this one.
func (s *Server) Follows(tb testing.TB, database string) string {
	tb.Helper()
	u, err := url.Parse(database)
	if err != nil {
		tb.Fatal(err)
	}
	return s.url(filepath.Base(u.Path))
}

// CatchUp waits until a standby has everything that the primary has now, and stops to follow
// it: what is written from then on is lost when the primary is.
func (s *Server) CatchUp(tb testing.TB, primary *Server) {
	tb.Helper()
	has := primary.ask(tb, "SELECT pg_current_wal_lsn()::text")
	s.awaitTrue(tb, "SELECT pg_last_wal_replay_lsn() >= '"+has+"'::pg_lsn")
	s.admin(tb, "ALTER SYSTEM SET primary_conninfo = ''")
	s.admin(tb, "SELECT pg_reload_conf()")
	s.awaitTrue(tb, "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_wal_receiver)")
}

// Promote makes a standby take writes.
func (s *Server) Promote(tb testing.TB) {
	tb.Helper()
	s.admin(tb, "SELECT pg_promote()")
	s.awaitTrue(tb, "SELECT NOT pg_is_in_recovery()")
}

// Kill ends the server as a power loss would. Stop it nevertheless, and keep no database of it
// open.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.killed = true
	if err := s.Stop(); err != nil {
		tb.Fatal(err)
	}
}

func (s *Server) ask(tb testing.TB, query string) (answer string) {
	tb.Helper()
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.QueryRowContext(tb.Context(), query).Scan(&answer); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
	return answer
}

func (s *Server) awaitTrue(tb testing.TB, query string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), startWait)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for s.ask(tb, query) != "true" {
		select {
		case <-ctx.Done():
			tb.Fatalf("never came true: %s", query)
		case <-again.C:
		}
	}
}
