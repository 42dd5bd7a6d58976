package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The report is of a real run of the go tool: a package that passes with a skipped test, one
// that fails, and one that does not compile.
func TestReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":            "module example\n\ngo 1.26\n",
		"good/good_test.go": "package good\n\nimport \"testing\"\n\nfunc TestPass(t *testing.T) { t.Log(\"unimportant\") }\n\nfunc TestSkip(t *testing.T) { t.Skipf(\"Node is missing: %s\", \"not in PATH\") }\n",
		"bad/bad_test.go":   "package bad\n\nimport \"testing\"\n\nfunc TestFail(t *testing.T) { t.Log(\"before\"); t.Error(\"wrong\") }\n\nfunc TestPanic(t *testing.T) { t.Log(\"about to\"); panic(\"at the disco\") }\n",
		"ugly/ugly_test.go": "package ugly\n\nvar x int = nonsense\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(packages ...string) (string, bool) {
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"test", "-json"}, packages...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
		text, _ := cmd.Output() // that it fails is what the report has to say
		var out strings.Builder
		failed, err := report(strings.NewReader(string(text)), &out)
		if err != nil {
			t.Fatal(err)
		}
		return out.String(), failed
	}

	out, failed := run("./good")
	if failed || !strings.Contains(out, "ok  \texample/good") || strings.Contains(out, "unimportant") {
		t.Errorf("of a good package, failed=%v:\n%s", failed, out)
	}
	if want := "skipped: 1\n  Node is missing: not in PATH\n    example/good TestSkip\n"; !strings.HasSuffix(out, want) {
		t.Errorf("the report ends with\n%s\nwant\n%s", out, want)
	}

	out, failed = run("./bad", "./ugly")
	if !failed {
		t.Error("a failed run is reported as a good one")
	}
	for _, want := range []string{"before", "wrong", "--- FAIL: TestFail", "about to", "at the disco", "FAIL\texample/bad", "undefined: nonsense", "FAIL\texample/ugly", "skipped: nothing\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q:\n%s", want, out)
		}
	}
}
