package testproc_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/internal/testproc"
)

func start(t *testing.T, script string) *testproc.Process {
	t.Helper()
	p, err := testproc.Start(t, "sh", exec.Command("/bin/sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A process that ends before it is ready is reported with what it wrote.
func TestEndsBeforeReady(t *testing.T) {
	p := start(t, "echo some reason; exit 3")
	err := p.AwaitReady(t.Context(), time.Minute, testproc.Answers("http://127.0.0.1:1/"))
	if err == nil || !strings.Contains(err.Error(), "ended before it was ready") || !strings.Contains(err.Error(), "some reason") {
		t.Errorf("error %v", err)
	}
	if code := p.ExitCode(); code != 3 {
		t.Errorf("exit code %d", code)
	}
}

// Stop is polite, and kills what does not listen.
func TestStop(t *testing.T) {
	polite := start(t, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done")
	awaitLog(t, polite, "up")
	if err := polite.Stop(time.Minute); err != nil || !strings.Contains(polite.Log().String(), "bye") {
		t.Errorf("stopping gives %v; log %q", err, polite.Log())
	}
	stubborn := start(t, "trap '' TERM; echo up; while :; do sleep 0.01; done")
	awaitLog(t, stubborn, "up")
	if err := stubborn.Stop(50 * time.Millisecond); err == nil {
		t.Error("stopping what does not listen gives no error")
	}
	<-stubborn.Done()
}

func awaitLog(t *testing.T, p *testproc.Process, text string) {
	t.Helper()
	err := p.AwaitReady(t.Context(), time.Minute, func(context.Context) error {
		if !strings.Contains(p.Log().String(), text) {
			return errors.New("not there yet")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What is built is built once, and not kept when it fails.
func TestCached(t *testing.T) {
	t.Setenv(testproc.CacheVariable, t.TempDir())
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	builds := 0
	build := func(result error) (string, error) {
		return testproc.Cached("part", []string{key}, func(dir string) error {
			builds++
			return errors.Join(result, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
		})
	}
	if _, err := build(errors.New("broken")); err == nil {
		t.Error("no error from a build that fails")
	}
	first, err := build(nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := build(nil)
	if err != nil || first != second || builds != 2 {
		t.Errorf("%d builds in %s and %s, %v", builds, first, second, err)
	}
	if err := os.WriteFile(key, []byte("2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if third, err := build(nil); err != nil || third == first || builds != 3 {
		t.Errorf("a changed key: %d builds, %s, %v", builds, third, err)
	}
}
