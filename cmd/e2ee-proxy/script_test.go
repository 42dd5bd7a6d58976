package main

import (
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"e2ee-proxy/internal/testpg"
	"e2ee-proxy/internal/testproc"
	"e2ee-proxy/internal/testredis"
)

var update = flag.Bool("update", false, "write what the scripts compare with")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"e2ee-proxy": main})
}

// The scripts are the specification of the command line.
func TestScripts(t *testing.T) {
	t.Parallel()
	runScripts(t, testscript.Params{Dir: "testdata/script"})
}

// What the pages of documentation tell their readers to type does what they say.
func TestPages(t *testing.T) {
	t.Parallel()
	needs(t, "bash", "curl", "jq", "make", "openssl")
	runScripts(t, testscript.Params{Dir: "testdata/pages"})
}

// What docs/operations.md says of backing up and restoring is done, on SQLite.
func TestBackupOfSQLite(t *testing.T) {
	t.Parallel()
	needs(t, "bash", "curl", "jq", "awk", "sqlite3")
	runScripts(t, testscript.Params{Files: []string{"testdata/backup/sqlite.txtar"}})
}

// What docs/operations.md says of backing up and restoring is done, on PostgreSQL.
func TestBackupOfPostgreSQL(t *testing.T) {
	t.Parallel()
	needs(t, "bash", "curl", "jq", "awk", "openssl", "pg_dump", "pg_restore")
	server := new(testpg.Server)
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	url := server.Database(t)
	runScripts(t, testscript.Params{Files: []string{"testdata/backup/postgresql.txtar"}, Setup: func(e *testscript.Env) error {
		e.Setenv("DATABASE_URL", url)
		return setup(e)
	}})
}

// A Redis is used, or refused, as docs/gateway.md says.
func TestRedis(t *testing.T) {
	t.Parallel()
	redis := testredis.Start(t, "--requirepass", "right")
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	runScripts(t, testscript.Params{Files: []string{"testdata/redis/redis.txtar"}, Setup: func(e *testscript.Env) error {
		if err := setup(e); err != nil {
			return err
		}
		for name, url := range map[string]string{
			"right.url": "redis://:right@" + redis.Addr(), "wrong.url": "redis://:hunter2@" + redis.Addr(),
			"notredis.url": strings.Replace(web.URL, "http", "redis", 1),
		} {
			if err := os.WriteFile(filepath.Join(e.WorkDir, name), []byte(url), 0o600); err != nil {
				return err
			}
		}
		return nil
	}})
}

// needs skips the test where a program is missing.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			testproc.Missing(t, program, err)
		}
	}
}

// runScripts runs scripts with the commands that there are here.
func runScripts(t *testing.T, p testscript.Params) {
	if p.Setup == nil {
		p.Setup = setup
	}
	p.RequireExplicitExec, p.RequireUniqueNames, p.UpdateScripts = true, true, *update
	p.Cmds = map[string]func(*testscript.TestScript, bool, []string){
		"exits": exits, "ports": ports, "homeserver": homeserver, "release": release, "get": get, "begin": begin, "end": end,
		"page": pageCommand, "block": block, "alltried": alltried, "town": town, "issue": issue, "gettls": gettls, "await": await,
	}
	testscript.Run(t, p)
}
