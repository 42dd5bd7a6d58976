package main

import (
	"bytes"
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
