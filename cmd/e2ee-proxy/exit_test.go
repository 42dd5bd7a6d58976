package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"e2ee-proxy/config"
)

type hinting struct{ error }

func (hinting) Hint() string { return "try again" }

func TestExit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		err  error
		code int
		text string
	}{
		{"nothing", nil, 0, ""},
		{"any error", errors.New("it broke"), 1, "e2ee-proxy: it broke\n"},
		{"usage", usageError("no command"), 2, "e2ee-proxy: no command\nhint: the commands are listed by: e2ee-proxy help\n"},
		{"configuration", fmt.Errorf("wrapped: %w", &config.Error{Problems: []config.Problem{{Where: "a.yaml:1:1", What: "is wrong", Do: "put it right"}}}), 3,
			"e2ee-proxy: wrapped: configuration: 1 problem(s)\n  a.yaml:1:1: is wrong; put it right\nhint: every setting is explained by: e2ee-proxy config example\n"},
		{"refused, with the hint of another package", storeFailure(fmt.Errorf("open: %w", hinting{errors.New("locked")})), 4, "e2ee-proxy: open: locked\nhint: try again\n"},
		{"a hint that is in the text already", hinting{errors.New("locked (try again)")}, 1, "e2ee-proxy: locked (try again)\n"},
		{"its own hint wins", &failure{exitListen, hinting{errors.New("in use")}, "another port"}, 5, "e2ee-proxy: in use\nhint: another port\n"},
		{"joined with what failed while closing", errors.Join(storeFailure(errors.New("first")), errors.New("then")), 4, "e2ee-proxy: first\nthen\n"},
	} {
		var out strings.Builder
		if code := (&process{stderr: &out}).exit(c.err); code != c.code || out.String() != c.text {
			t.Errorf("%s: exit code %d, want %d; text %q, want %q", c.name, code, c.code, out.String(), c.text)
		}
	}
}

// The codes are an interface: they are documented, and each of them once.
func TestExitCodesAreDocumented(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range exitCodes() {
		if e.code != i {
			t.Errorf("code %d is at place %d", e.code, i)
		}
		if !strings.Contains(string(docs), fmt.Sprintf("\n| %d | %s", e.code, e.meaning)) {
			t.Errorf("docs/operations.md does not say that %d means %q", e.code, e.meaning)
		}
	}
	for _, c := range commands() {
		if !c.hidden() && !strings.Contains(string(docs), "`e2ee-proxy "+c.name) {
			t.Errorf("docs/operations.md does not name the command %q", c.name)
		}
	}
}
