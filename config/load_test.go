package config

import (
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"e2ee-proxy/internal/secret"
)

const testKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// write puts text into a file of the test's own and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load reads YAML text, variables and arguments as the command line would.
func load(t *testing.T, yaml string, environ []string, args ...string) (*Config, error) {
	t.Helper()
	src := Sources{Environ: environ, Flags: &Flags{}}
	if yaml != "" {
		src.File = write(t, "proxy.yaml", yaml)
	}
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	src.Flags.Register(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return Load(src)
}

func mustLoad(t *testing.T, yaml string, environ []string, args ...string) *Config {
	t.Helper()
	cfg, err := load(t, yaml, environ, args...)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return cfg
}

// problems returns the lines of the error with the test's own directories cut off.
func problems(t *testing.T, err error) []string {
	t.Helper()
	var bad *Error
	if !errors.As(err, &bad) {
		t.Fatalf("error is %v, want an *Error", err)
	}
	var out []string
	for _, p := range bad.Problems {
		p.Where = filepath.Base(p.Where)
		if p.Where == "." {
			p.Where = ""
		}
		out = append(out, p.String())
	}
	return out
}

func TestHomeserverIsEnough(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, "", nil, "--homeserver", "https://matrix.example.org/")
	want := Default()
	if err := want.Homeserver.UnmarshalText([]byte("https://matrix.example.org")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(show(&want), show(cfg)); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func TestFlagsBeforeEnvironmentBeforeFileBeforeDefaults(t *testing.T) {
	t.Parallel()
	yaml := "homeserver: https://file.example\nlog: {level: warn}\nlisten: 127.0.0.1:1\nops_listen: 127.0.0.1:9\n"
	env := []string{"E2EE_PROXY_LOG_LEVEL=error", "E2EE_PROXY_LISTEN=127.0.0.1:2", "HOME=/nowhere"}
	cfg := mustLoad(t, yaml, env, "--listen", "127.0.0.1:3")
	if cfg.Listen != "127.0.0.1:3" || cfg.Log.Level != LogError || cfg.OpsListen != "127.0.0.1:9" || cfg.Data != "data" {
		t.Errorf("listen %s, level %s, ops %s, data %s", cfg.Listen, cfg.Log.Level, cfg.OpsListen, cfg.Data)
	}
}

func TestFileFromEnvironment(t *testing.T) {
	t.Parallel()
	path := write(t, "other.yaml", "homeserver: https://file.example\n")
	cfg, err := Load(Sources{Environ: []string{"E2EE_PROXY_CONFIG=" + path}})
	if err != nil || cfg.Homeserver.String() != "https://file.example" {
		t.Errorf("homeserver %v, error %v", cfg, err)
	}
}

func TestOfflineNeedsNoHomeserver(t *testing.T) {
	t.Parallel()
	if cfg, err := Load(Sources{Offline: true}); err != nil || !cfg.Homeserver.IsZero() {
		t.Errorf("configuration %v, error %v", cfg, err)
	}
	if _, err := Load(Sources{Offline: true, Environ: []string{"E2EE_PROXY_HOMESERVER=h"}}); err == nil {
		t.Error("a wrong homeserver is accepted")
	}
}

func TestSecretsFromFiles(t *testing.T) {
	t.Parallel()
	key, db, recovery := write(t, "key", testKey+"\n"), write(t, "db", "postgres://u:p@h/d\n"), write(t, "rk", "EsTc abcd\n")
	yaml := "homeserver: https://h.example\naccounts:\n  \"@bot:h.example\":\n    recovery_key_file: " + recovery + "\n"
	cfg := mustLoad(t, yaml, []string{"E2EE_PROXY_DATABASE_URL_FILE=" + db}, "--master-key-key-file", key)
	if got := cfg.Database.URL.Reveal(); got != "postgres://u:p@h/d" {
		t.Errorf("database URL from a file is %q", got)
	}
	if got := cfg.MasterKey.Key.Reveal(); len(got) != KeySize || got[31] != 31 {
		t.Errorf("master key from a file is %x", got)
	}
	if got := cfg.Accounts["@bot:h.example"].RecoveryKey; got != secret.NewString("EsTc abcd") {
		t.Errorf("recovery key from a file is %q", got.Reveal())
	}
}

func TestListsAndMapsFromEnvironment(t *testing.T) {
	t.Parallel()
	phrase := write(t, "phrase", "open sesame\n")
	env := []string{
		`E2EE_PROXY_HOMESERVER=https://h.example`,
		`E2EE_PROXY_POLICY_BRIDGES=["@bridge:h.example"]`,
		`E2EE_PROXY_ACCOUNTS={"@bot:h.example": {acknowledge_unverified_changes: automatic, require_cross_signing: false, recovery_key: EsTc abcd}, ` +
			`"@other:h.example": {passphrase_file: ` + phrase + `}}`,
	}
	cfg := mustLoad(t, "policy: {bridges: ['@other:h.example']}\n", env)
	if diff := cmp.Diff("@bridge:h.example", string(cfg.Policy.Bridges[0])); diff != "" || len(cfg.Policy.Bridges) != 1 {
		t.Errorf("bridges: %v", cfg.Policy.Bridges)
	}
	if cfg.Accounts["@bot:h.example"].AcknowledgeUnverifiedChanges != AcknowledgeAutomatic {
		t.Error("account setting from the environment was lost")
	}
	if key, phrase := cfg.Accounts["@bot:h.example"].RecoveryKey, cfg.Accounts["@other:h.example"].Passphrase; key != secret.NewString("EsTc abcd") || phrase != secret.NewString("open sesame") {
		t.Error("a recovery key or passphrase from the environment was lost")
	}
	if cfg.CrossSigningRequired("@bot:h.example") || !cfg.CrossSigningRequired("@else:h.example") {
		t.Error("require_cross_signing must hold for all but the one account")
	}
}

func TestEnvironmentOfOthersIsLeftAlone(t *testing.T) {
	t.Parallel()
	// What Kubernetes sets in every pod beside a service named e2ee-proxy.
	mustLoad(t, "homeserver: https://h.example\n", []string{
		"E2EE_PROXY_PORT=tcp://10.0.0.1:8009", "E2EE_PROXY_SERVICE_HOST=10.0.0.1", "E2EE_PROXY_PORT_8009_TCP=tcp://10.0.0.1:8009",
	})
}

func TestRollout(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, "homeserver: https://h.example\npolicy: {send: {mode: warn, enforce_from: 2026-12-01}}\n", nil)
	day := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		r    Rollout
		at   time.Time
		want Mode
	}{
		{Rollout{}, day, Enforce},
		{cfg.Policy.Send, day.Add(-time.Second), Warn},
		{cfg.Policy.Send, day, Enforce},
		{Rollout{Mode: Warn}, day, Warn},
		{Rollout{Mode: Off}, day, Off},
	} {
		if got := c.r.At(c.at); got != c.want {
			t.Errorf("%+v at %s is %s, want %s", c.r, c.at, got, c.want)
		}
	}
}
