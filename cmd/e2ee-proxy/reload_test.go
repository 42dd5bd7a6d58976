package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"

	"e2ee-proxy/config"
	"e2ee-proxy/e2ee"
	"e2ee-proxy/internal/liar"
	"e2ee-proxy/internal/sdnotify"
	"e2ee-proxy/trustcache"
)

// await is "await FILE PATTERN": waits until a file matches, and empties it.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE PATTERN")
	}
	pattern, err := regexp.Compile(args[1])
	ts.Check(err)
	for end := time.Now().Add(patience); ; <-time.After(10 * time.Millisecond) {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && pattern.Match(text) {
			ts.Check(os.WriteFile(ts.MkAbs(args[0]), nil, 0o600))
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s does not match %s:\n%s", args[0], args[1], text)
		}
	}
}

// What is taken over without a restart are settings that exist.
func TestReloadableSettingsExist(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	manual, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range reloadable() {
		if !strings.Contains(string(page), "# `"+name+"`\n") && !strings.Contains(string(page), "# "+name+"\n") {
			t.Errorf("there is no setting %s", name)
		}
		if !strings.Contains(string(manual), "`"+name+"`") {
			t.Errorf("docs/operations.md does not say that %s is reloaded", name)
		}
	}
}

// A reload reaches the policy and the accounts' settings that parts ask for each time, and
// nothing of what holds until the next start.
func TestReloadReachesTheEngine(t *testing.T) {
	t.Parallel()
	before, after := config.Default(), config.Default()
	after.Policy.Send.Mode, after.Policy.Receive.Mode, after.Policy.Withheld = config.Warn, config.Warn, config.WithheldHide
	after.Account.RequireCrossSigning = config.NotRequired
	after.Listen = "127.0.0.1:1"
	before.Data = t.TempDir()
	after.Data = before.Data
	db, err := openStore(t.Context(), &before, zerolog.Nop(), new(lostAccounts))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	g := &gateway{inForce: force(&before), log: zerolog.Nop(), db: db, outside: outside{level: new(logLevel), load: func() (*config.Config, error) { return &after, nil }}}
	options := engineOptions(&before, g.inForce, zerolog.Nop(), db, http.DefaultClient)
	if g.engine, err = e2ee.New(options); err != nil {
		t.Fatal(err)
	}
	hidden := interceptorOptions(&before, g.inForce).HideNotices
	after.Clients.HideWarnings = true
	version := options.PolicyVersion()
	g.reload(t.Context())
	policy := options.Policy()
	if now := options.PolicyVersion(); now == version || now != policyVersion(g.inForce.Load()) {
		t.Errorf("the version of the policy was %s and is %s", version, now)
	}
	if policy.Send != trustcache.ModeWarn || policy.Withheld != trustcache.WithheldHide || !options.Account("@a:h").AllowUnsigned || !hidden("@a:h") {
		t.Errorf("not taken over: %+v, %+v", policy, options.Account("@a:h"))
	}
	if policy.Receive != trustcache.ModeEnforce || g.inForce.Load().Listen != before.Listen {
		t.Errorf("taken over: %+v", policy)
	}
}

// The level of logging changes for every logger that was made from the first one.
func TestLogLevelChanges(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	level := new(logLevel)
	first := newLogger(&text, config.Log{Level: config.LogError}, level)
	second := first.With().Str("part", "x").Logger()
	second.Info().Msg("one")
	level.set(config.LogDebug)
	second.Debug().Msg("two")
	level.set(config.LogWarn)
	first.Info().Msg("three")
	first.Warn().Msg("four")
	if got := regexp.MustCompile(`"message":"(\w+)"`).FindAllString(text.String(), -1); strings.Join(got, " ") != `"message":"two" "message":"four"` {
		t.Errorf("logged %v", got)
	}
}

// systemd is told when the proxy is ready, reloads, is alive and stops.
func TestServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// hear reads messages until one has begun with each of those, in any order; what the process
	// says of its life comes between.
	hear := func(all ...string) {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		for text := make([]byte, 1024); len(all) > 0; {
			n, err := conn.Read(text)
			if err != nil {
				t.Fatalf("waiting for %q: %v", all, err)
			}
			got := string(text[:n])
			if i := slices.IndexFunc(all, func(want string) bool { return strings.HasPrefix(got, want) }); i >= 0 {
				all = slices.Delete(all, i, i+1)
			} else if got != "WATCHDOG=1" && got != "STATUS=serving" {
				t.Fatalf("heard %q, want %q", got, all)
			}
		}
	}
	cfg := config.Default()
	cfg.Data, cfg.Listen, cfg.OpsListen = t.TempDir(), "127.0.0.1:0", ""
	if err := cfg.Homeserver.UnmarshalText([]byte(liar.New(t).URL)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	hup := make(chan os.Signal, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- runProxy(ctx, &cfg, zerolog.Nop(), outside{
			hup: hup, load: func() (*config.Config, error) { return &cfg, nil }, level: new(logLevel),
			manager: sdnotify.FromEnviron([]string{"NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=20000"}),
		})
	}()
	hear("READY=1\n")
	hear("WATCHDOG=1", "STATUS=serving")
	hup <- syscall.SIGHUP
	hear("RELOADING=1\n")
	hear("READY=1\n")
	stop()
	hear("STOPPING=1")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
