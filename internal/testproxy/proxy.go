package testproxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"e2ee-proxy/internal/tesths"
	"e2ee-proxy/internal/testproc"
)

const (
	readyDeadline = 60 * time.Second
	stopDeadline  = 40 * time.Second
)

// Options configures a proxy, beside its defaults.
type Options struct {
	// Args are further flags of "serve".
	Args []string
	// Config is written to a file that --config names, when not empty.
	Config string
	// Env is what its environment has beside the test's own, as "NAME=value".
	Env []string
	// Data is the data folder; a new one when empty.
	Data string
}

// Proxy is a running proxy.
type Proxy struct {
	// URL is for clients, OpsURL for operators.
	URL, OpsURL string
	// Data is the data folder.
	Data string

	t       testproc.TB
	binary  string
	config  string // the file, or empty
	command func() *exec.Cmd

	mu      sync.Mutex
	process *testproc.Process
	logs    []*testproc.Log
}

// Start runs a proxy before a homeserver and waits until it is ready.
func Start(t testproc.TB, homeserver string, o Options) *Proxy {
	t.Helper()
	binary, err := build(t.Context())
	if err != nil {
		t.Fatalf("%v", err)
	}
	if o.Data == "" {
		o.Data = testproc.FastDir(t)
	}
	ports, err := testproc.FreePorts(2)
	if err != nil {
		t.Fatalf("start the proxy: %v", err)
	}
	p := &Proxy{
		URL:    fmt.Sprintf("http://127.0.0.1:%d", ports[0]),
		OpsURL: fmt.Sprintf("http://127.0.0.1:%d", ports[1]),
		Data:   o.Data, t: t, binary: binary,
	}
	args := []string{
		"serve", "--homeserver", homeserver, "--data", o.Data, "--log-level", "debug",
		"--listen", strings.TrimPrefix(p.URL, "http://"), "--ops-listen", strings.TrimPrefix(p.OpsURL, "http://"),
	}
	if o.Config != "" {
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(o.Config), 0o600); err != nil {
			t.Fatalf("start the proxy: %v", err)
		}
		p.config = file
		args = append(args, "--config", file)
	}
	p.command = func() *exec.Cmd {
		cmd := exec.Command(binary, append(args, o.Args...)...)
		// Its memory is measured as it is used, however the tests collect garbage.
		cmd.Env = slices.Concat(os.Environ(), []string{"GOGC=100"}, o.Env)
		return cmd
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatalf("start the proxy: %v", err)
	}
	return p
}

// raceFlags build the proxy as this test is built: with the race detector, and the flags
// that the Makefile gives it, or as it is shipped.
func raceFlags() (flags, env []string) {
	info, ok := debug.ReadBuildInfo()
	if ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return []string{
			"-race", "-gcflags=modernc.org/...=-d=checkptr=0", "-gcflags=modernc.org/sqlite/lib=-race=false",
			"-gcflags=filippo.io/edwards25519/...=-race=false", "-gcflags=crypto/internal/fips140/edwards25519/...=-race=false",
		}, []string{"CGO_ENABLED=1"}
	}
	return nil, []string{"CGO_ENABLED=0"}
}

// build builds the proxy; when nothing has changed, that takes no time.
func build(ctx context.Context) (string, error) {
	root, err := testproc.Root()
	if err != nil {
		return "", err
	}
	// Test results may be cached only as long as the proxy is the same.
	if err := testproc.DependOn(root, "cmd", "proxy", "cluster", "console", "interceptors", "e2ee", "trustcache", "store", "config", "internal"); err != nil {
		return "", err
	}
	flags, env := raceFlags()
	name := "e2ee-proxy"
	if len(flags) > 0 {
		name += flags[0]
	}
	return testproc.Rebuilt(name, func(file string) error {
		args := append([]string{"build", "-o", file}, flags...)
		return testproc.Run(ctx, 15*time.Minute, root, env, "go", append(args, "./cmd/e2ee-proxy")...)
	})
}

// Start starts the proxy, with the same data and ports as before, and waits until it
// is ready. It must not be running.
func (p *Proxy) Start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	process, err := testproc.Start(p.t, "e2ee-proxy", p.command())
	if err != nil {
		return err
	}
	p.process = process
	p.logs = append(p.logs, process.Log())
	return process.AwaitReady(ctx, readyDeadline, testproc.Answers(p.OpsURL+"/readyz"))
}

// Stop ends the proxy in good order.
func (p *Proxy) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process.Stop(stopDeadline)
}

// Kill ends the proxy at once, by SIGKILL.
func (p *Proxy) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.process.Kill()
}

// Restart kills the proxy and starts it again.
func (p *Proxy) Restart(ctx context.Context) error {
	p.Kill()
	return p.Start(ctx)
}

// Run runs another command of the proxy, of one word or two, with the same data and settings,
// beside it, and returns what it prints.
func (p *Proxy) Run(ctx context.Context, command string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stopDeadline)
	defer cancel()
	all := append(strings.Fields(command), "--data", p.Data)
	if p.config != "" {
		all = append(all, "--config", p.config)
	}
	out, err := exec.CommandContext(ctx, p.binary, append(all, args...)...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("run %s: %w: %s", command, err, exit.Stderr)
	}
	if err != nil {
		return "", fmt.Errorf("run %s: %w", command, err)
	}
	return string(out), nil
}

// Log returns what the proxy has written since its first start.
func (p *Proxy) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all strings.Builder
	for _, l := range p.logs {
		all.WriteString(l.String())
	}
	return all.String()
}

// Client returns a client for the proxy.
func (p *Proxy) Client() tesths.Client { return tesths.Client{URL: p.URL} }

// Metrics returns the page of the proxy's metrics.
func (p *Proxy) Metrics(ctx context.Context) (string, error) {
	resp, err := tesths.Client{URL: p.OpsURL}.Do(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return "", err
	}
	if resp.Status != http.StatusOK {
		return "", fmt.Errorf("/metrics answers %d", resp.Status)
	}
	return string(resp.Body), nil
}

// Command returns a command of the proxy's program that finds the one that runs by the same
// data folder.
func (p *Proxy) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.binary, args...)
	cmd.Env = append(os.Environ(), "E2EE_PROXY_DATA="+p.Data)
	return cmd
}
