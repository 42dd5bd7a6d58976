package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/testproc"
)

const unitFile = "../../deploy/e2ee-proxy.service"

// unitLines reads the unit: the values of each directive, in their order.
func unitLines(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	directives := make(map[string][]string)
	section := ""
	for i, line := range strings.Split(string(text), "\n") {
		name, value, ok := strings.Cut(line, "=")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		case ok && section != "":
			directives[name] = append(directives[name], value)
		default:
			t.Errorf("%s:%d: %q is no directive", unitFile, i+1, line)
		}
	}
	return directives
}

// The unit runs a command that there is, with settings that there are, and gives it the time
// that it needs to stop.
func TestUnitRunsTheProxy(t *testing.T) {
	t.Parallel()
	unit := unitLines(t)
	start := strings.Fields(strings.Join(unit["ExecStart"], " "))
	if len(start) < 2 || filepath.Base(start[0]) != "e2ee-proxy" {
		t.Fatalf("it starts %q", start)
	}
	// The command line is read as serve reads it, with a file that is there.
	file := filepath.Join(t.TempDir(), "e2ee-proxy.yaml")
	if err := os.WriteFile(file, []byte("homeserver: https://h\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := slices.Clone(start[1:])
	for i, arg := range args {
		if strings.HasSuffix(arg, ".yaml") {
			args[i] = file
		}
	}
	if args[0] != "serve" {
		t.Fatalf("it runs %q", args)
	}
	var out, errs bytes.Buffer
	p := &process{environ: unit["Environment"], stdout: &out, stderr: &errs}
	if code := p.exit(p.run(append([]string{"config", "check"}, args[1:]...))); code != exitOK {
		t.Errorf("the configuration is refused with %d: %s", code, errs.String())
	}
	codes := strings.Fields(strings.Join(unit["RestartPreventExitStatus"], " "))
	if !slices.Equal(codes, []string{strconv.Itoa(exitUsage), strconv.Itoa(exitConfig)}) {
		t.Errorf("it does not start again after %q", codes)
	}
	seconds, err := strconv.Atoi(strings.Join(unit["TimeoutStopSec"], " "))
	if needs := config.Default().Limits.DrainTimeout + closeWait; err != nil || time.Duration(seconds)*time.Second <= needs {
		t.Errorf("it is killed after %d s; it may take %v", seconds, needs)
	}
	if strings.Join(unit["Type"], "") != "notify" || len(unit["WatchdogSec"]) != 1 || !strings.Contains(strings.Join(unit["ExecReload"], ""), "-HUP $MAINPID") {
		t.Error("systemd is not told how the proxy is")
	}
	for _, call := range []string{"prctl", "prlimit64"} {
		for _, filter := range unit["SystemCallFilter"] {
			if strings.HasPrefix(filter, "~") && regexp.MustCompile(`@resources|@process|`+call).MatchString(filter) {
				t.Errorf("%s takes %s away, without which the proxy does not start", filter, call)
			}
		}
	}
}

// systemd takes the unit, and finds that it is left little.
func TestUnitAsSystemdSeesIt(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		testproc.Missing(t, "systemd-analyze", err)
	}
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable() // a program that is there
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "e2ee-proxy.service")
	if err := os.WriteFile(unit, bytes.ReplaceAll(text, []byte("/usr/local/bin/e2ee-proxy"), []byte(self)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", "--man=no", unit}, {"security", "--offline=true", "--no-pager", "--threshold=15", unit}} {
		if out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput(); err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}
