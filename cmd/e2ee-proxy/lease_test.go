package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/testpg"
)

// lines hands on the lines of a log, as long as somebody reads them.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default:
	}
	return len(p), nil
}

// await returns the line that has a text in it.
func (l lines) await(t *testing.T, text string) string {
	t.Helper()
	for {
		select {
		case line := <-l:
			if strings.Contains(line, text) {
				return line
			}
		case <-t.Context().Done():
			t.Fatalf("the log does not say %q", text)
		}
	}
}

// proxyOn runs a proxy with the database at url until the test ends. What it ends with
// is rendered as for a person.
func proxyOn(t *testing.T, url string) (log lines, ended chan string) {
	t.Helper()
	homeserver := httptest.NewServer(&fake{released: make(chan struct{})})
	t.Cleanup(homeserver.Close)
	cfg, err := config.Load(config.Sources{Environ: []string{
		"E2EE_PROXY_HOMESERVER=" + homeserver.URL, "E2EE_PROXY_LISTEN=127.0.0.1:0", "E2EE_PROXY_OPS_LISTEN=", "E2EE_PROXY_DATA=" + t.TempDir(),
		"E2EE_PROXY_DATABASE_URL=" + url, "E2EE_PROXY_MASTER_KEY_KEY=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	log, ended = make(lines, 100), make(chan string, 1)
	var running sync.WaitGroup
	running.Go(func() {
		var text strings.Builder
		code := (&process{stderr: &text}).exit(runProxy(ctx, cfg, zerolog.New(log), outside{}))
		ended <- fmt.Sprintf("%d %s", code, text.String())
	})
	t.Cleanup(func() { stop(); running.Wait() })
	return log, ended
}

// Report: two processes on one PostgreSQL reused message keys. The second one waits for as
// long as it takes to know that the first one is alive, says why, and ends with words; so
// does the first one when its lease is gone, as after a restore under it.
func TestOneProcessPerDatabase(t *testing.T) {
	t.Parallel()
	var server testpg.Server
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	url := server.Database(t)
	log, first := proxyOn(t, url)
	log.await(t, "ready to serve")
	log, second := proxyOn(t, url)
	if line := log.await(t, "waiting"); !strings.Contains(line, "database is in use by another process: e2ee-proxy on ") {
		t.Errorf("it waits and says %s", line)
	}
	if got := <-second; !strings.HasPrefix(got, "4 ") || !strings.Contains(got, "in use by another process") || !strings.Contains(got, "stop the other e2ee-proxy") {
		t.Errorf("the second one ended with %q", got)
	}
	select {
	case got := <-first:
		t.Fatalf("the first one ended with %q", got)
	default:
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), "UPDATE lease SET epoch = epoch + 1, holder = 'another'"); err != nil {
		t.Fatal(err)
	}
	if got := <-first; !strings.HasPrefix(got, "4 ") || !strings.Contains(got, "another process has taken the database over") {
		t.Errorf("the first one ended with %q", got)
	}
}
