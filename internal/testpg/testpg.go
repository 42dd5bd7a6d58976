package testpg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// requireAll is the variable that turns a missing part from a skip into a failure.
const requireAll = "E2EE_PROXY_REQUIRE_ALL"

const startWait = time.Minute

var errMissing = errors.New("PostgreSQL is not installed")

// Server is a PostgreSQL server that starts when it is first needed. Stop it at the end
// of TestMain. The zero value is ready for use.
type Server struct {
	// Durable makes commits wait for the disk, which most tests need not.
	Durable bool

	once  sync.Once
	err   error
	dir   string
	alive io.Closer // the server ends when this is closed, or when this process dies
	cmd   *exec.Cmd
	count atomic.Int64
	// killed is set by Kill: there is nothing to clean up.
	killed bool
}

// Database makes an empty database and returns its URL. The database is dropped when the
// test ends.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	s.once.Do(func() { s.err = s.start(tb.Context()) })
	if errors.Is(s.err, errMissing) && os.Getenv(requireAll) != "1" {
		tb.Skip(s.err)
	}
	if s.err != nil {
		tb.Fatalf("start PostgreSQL: %v", s.err)
	}
	name := "test" + strconv.FormatInt(s.count.Add(1), 10)
	s.admin(tb, "CREATE DATABASE "+name)
	tb.Cleanup(func() {
		if !s.killed {
			s.admin(tb, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		}
	})
	return s.url(name)
}

// Copy makes a database with the content of another, to which nobody may be connected,
// as restoring a dump would.
func (s *Server) Copy(tb testing.TB, from string) string {
	tb.Helper()
	u, err := url.Parse(from)
	if err != nil {
		tb.Fatal(err)
	}
	name := "test" + strconv.FormatInt(s.count.Add(1), 10)
	s.admin(tb, "CREATE DATABASE "+name+" TEMPLATE "+filepath.Base(u.Path))
	tb.Cleanup(func() { s.admin(tb, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)") })
	return s.url(name)
}

// Stop ends the server, if it was started, and removes its files.
func (s *Server) Stop() error {
	if s.cmd == nil {
		return nil
	}
	defer func() { s.cmd = nil }()
	err := s.alive.Close()
	var exit *exec.ExitError
	if wait := s.cmd.Wait(); wait != nil && !errors.As(wait, &exit) {
		err = errors.Join(err, wait)
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

func (s *Server) url(database string) string {
	q := url.Values{"host": {s.dir}, "user": {"postgres"}}
	return "postgres:///" + database + "?" + q.Encode()
}

// admin runs a statement outside the test's context, which is over during clean-up.
func (s *Server) admin(tb testing.TB, statement string) {
	tb.Helper()
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(context.WithoutCancel(tb.Context()), statement); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
}

func (s *Server) start(ctx context.Context) error {
	bin, err := findBinaries()
	if err != nil {
		return err
	}
	// Not the test's own directory: the path of a socket may have 107 bytes only.
	if s.dir, err = os.MkdirTemp("/tmp", "testpg"); err != nil {
		return err
	}
	as, err := ordinaryUser(s.dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(s.dir))
	}
	data := filepath.Join(s.dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"),
		"-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = s.dir, as
	if out, err := initdb.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("initdb: %w: %s", err, out), os.RemoveAll(s.dir))
	}
	return s.launch(ctx, filepath.Join(bin, "postgres"), data)
}

// watch runs the server until its standard input ends, which it does with this process.
const watch = `"$@" & pid=$!; read -r _; kill -QUIT $pid; wait $pid`

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func (s *Server) launch(ctx context.Context, postgres, data string) error {
	as, err := ordinaryUser(s.dir)
	if err != nil {
		return err
	}
	// Without the test's context: it outlives the test that starts it.
	cmd := exec.Command("/bin/sh", "-c", watch, "sh", postgres, "-D", data, "-k", s.dir,
		"-c", "listen_addresses=", "-c", "fsync="+onOff(s.Durable), "-c", "full_page_writes="+onOff(s.Durable), "-c", "max_connections=200",
		"-c", "shared_buffers=64MB")
	cmd.Dir, cmd.SysProcAttr = s.dir, as
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.alive = cmd, stdin
	if err := s.await(ctx); err != nil {
		text, _ := os.ReadFile(log.Name())
		return errors.Join(fmt.Errorf("%w: %s", err, text), s.Stop())
	}
	return nil
}

// await waits until the server answers.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-again.C:
		}
	}
}

// findBinaries returns the directory of initdb and postgres: that of the PATH, or of the
// newest version where Debian puts them.
func findBinaries() (string, error) {
	if p, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(p), nil
	}
	all, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(all) == 0 {
		return "", errMissing
	}
	version := func(p string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(p)))) // not a number sorts first
		return n
	}
	return filepath.Dir(slices.MaxFunc(all, func(a, b string) int { return version(a) - version(b) })), nil
}
