package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"e2ee-proxy/internal/testproc"
)

// Each shell completes at a terminal what is typed, at the first press of the key, with its
// script where the script says that it belongs.
func TestShellsComplete(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]struct {
		shell       string
		args        []string
		file, setup string
	}{
		"bash":       {"bash", []string{"--norc", "--noprofile", "-i"}, "e2ee-proxy", ". ./e2ee-proxy"},
		"zsh":        {"zsh", []string{"-f", "-i"}, "functions/_e2ee-proxy", "fpath=($PWD/functions $fpath); autoload -U compinit; compinit -u -D"},
		"zsh source": {"zsh", []string{"-f", "-i"}, "e2ee-proxy", "autoload -U compinit; compinit -u -D; . ./e2ee-proxy"},
		"fish":       {"fish", []string{"--private"}, ".config/fish/completions/e2ee-proxy.fish", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			needs(t, way.shell)
			dir := t.TempDir()
			script, err := exec.Command("e2ee-proxy", "completion", way.shell).Output()
			if err != nil {
				t.Fatal(err)
			}
			// The last one keeps fish from writing there by itself, also after it has ended.
			for name, data := range map[string][]byte{way.file: script, "room-keys.txt": nil, "fish/generated_completions/none": nil} {
				file := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(way.shell, way.args...)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+filepath.Join(dir, ".config"),
				"XDG_DATA_HOME="+dir, "XDG_RUNTIME_DIR="+dir, "XDG_CACHE_HOME="+dir, "TERM=xterm", "LC_ALL=C.UTF-8", "EDITOR=", "VISUAL=")
			term := testproc.OnTerminal(t, way.shell, cmd)
			term.Type(way.setup + "\r")
			term.Type("echo rea''dy\r")
			term.Await("ready")
			for typed, want := range map[string]string{
				"acknow":                "acknowledge",
				"audit exp":             "audit export",
				"serve --log-level err": "serve --log-level error",
				"reset --y":             "reset --yes",
				"import room":           "import room-keys.txt",
			} {
				// What was completed is not run, but shown: the line gets another beginning.
				term.Type("e2ee-proxy " + typed + "\t\x01echo +\r")
				line := regexp.MustCompile(`[\r\n]\+e2ee-proxy ` + regexp.QuoteMeta(want) + ` *\r?\n`)
				term.AwaitShown(want, func(shown string) bool { return line.MatchString(escapes.ReplaceAllString(shown, "")) })
			}
			term.Type("exit\r")
			if shown, code := term.End(); code != 0 || strings.Contains(shown, "command not found") {
				t.Errorf("exit code %d:\n%q", code, shown)
			}
		})
	}
}

// escapes are what a shell writes to move the cursor, to colour, and to name the window.
var escapes = regexp.MustCompile("\x1b\\[[0-9;?>=]*[A-Za-z]|\x1b\\][^\x07\x1b]*(\x07|\x1b\\\\)|\x1b[()][A-B0]|\x1b[=>]")
