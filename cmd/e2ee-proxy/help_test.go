package main

import (
	"bytes"
	"flag"
	"strings"
	"testing"
	"unicode/utf8"

	"e2ee-proxy/internal/terminal"
)

// Help fits a terminal of 80 columns, whatever the command, and says what every flag takes.
func TestHelpFits(t *testing.T) {
	t.Parallel()
	for _, c := range append(commands(), command{}) {
		var out, errs bytes.Buffer
		p := &process{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}
		args := append(strings.Fields(c.name), "-h")
		if c.hidden() {
			args = []string{"help"}
		}
		if err := p.run(args); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > terminal.Width {
				t.Errorf("%v: a line has %d characters: %s", args, n, line)
			}
		}
		if out.Len() == 0 || strings.Contains(out.String(), "\x1b") {
			t.Errorf("%v: got %q", args, out.String())
		}
	}
}

// The examples in help are calls that can be made: with flags that there are, values after those that
// take one, and the arguments.
func TestExamplesAreCalls(t *testing.T) {
	t.Parallel()
	for _, c := range commands() {
		if len(c.examples) == 0 && !c.hidden() && c.name != "version" && c.name != "config example" {
			t.Errorf("%s has no example", c.name)
		}
		for _, example := range c.examples {
			var rest []string
			checked := false
			p := &process{}
			p.describe = func(c command, fs *flag.FlagSet) {
				p.describe, checked = nil, true
				var err error
				if rest, _, err = p.parseArgs(c, fs, strings.Fields(example)); err != nil {
					t.Errorf("%s: %v", c.call(example), err)
				}
			}
			if err := c.run(p, c, nil); err != nil || !checked {
				t.Errorf("%s: %v", c.call(example), err)
			}
			if least := len(strings.Fields(c.args)) - strings.Count(c.args, "["); len(rest) < least {
				t.Errorf("%s has %d arguments", c.call(example), len(rest))
			}
		}
	}
}

// Settings do not bury the flags of a command that takes them all; serve says them.
func TestHelpWithoutSettings(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ settings, told bool }{
		"serve": {true, false}, "audit export": {false, true}, "recovery-key": {false, true}, "status": {false, false},
	} {
		var out bytes.Buffer
		p := &process{stdin: strings.NewReader(""), stdout: &out, stderr: &out}
		if err := p.run(append(strings.Fields(name), "-h")); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(out.String(), "--log-level"); got != want.settings {
			t.Errorf("%s shows settings: %t", name, got)
		}
		if got := strings.Contains(out.String(), settingsHelp); got != want.told {
			t.Errorf("%s says that there are settings: %t", name, got)
		}
	}
}

// Calls of the API in what the proxy says become commands, for the account that was asked
// about.
func TestCommandsFor(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"POST /_e2ee_proxy/v1/recover with your recovery key.":                            "e2ee-proxy recover --user @b:hs with your recovery key.",
		"Confirm it: POST /_e2ee_proxy/v1/bootstrap, and see GET /_e2ee_proxy/v1/status.": "Confirm it: e2ee-proxy bootstrap --user @b:hs, and see e2ee-proxy status --user @b:hs.",
		"then accept it (POST /_e2ee_proxy/v1/users/{userId}/acknowledge)":                "then accept it (e2ee-proxy acknowledge --user @b:hs USER)",
		"(POST /_e2ee_proxy/v1/users/{userId}/withdraw_verification)":                     "(e2ee-proxy acknowledge --withdraw --user @b:hs USER)",
		"\x1b[31mred": "[31mred",
	} {
		if got := commandsFor(text, "@b:hs"); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
