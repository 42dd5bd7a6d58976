package main

import (
	"errors"
	"fmt"
	"strings"

	"e2ee-proxy/config"
)

// Rules of this file: the only place that turns an error into text for a person. It goes to
// standard error, with "e2ee-proxy:" before it and a hint below it; no capital letter, no
// full stop.

// The exit codes. They are an interface: docs/operations.md lists them.
const (
	exitOK      = 0
	exitRuntime = 1
	exitUsage   = 2
	exitConfig  = 3
	exitStore   = 4
	exitListen  = 5
	exitCareful = 6
	exitBroken  = 7
)

type exitCode struct {
	code    int
	meaning string
}

func exitCodes() []exitCode {
	return []exitCode{
		{exitOK, "all went well"},
		{exitRuntime, "something failed while running"},
		{exitUsage, "wrong command, flag or argument"},
		{exitConfig, "the configuration has problems"},
		{exitStore, "the master key, the database or the data directory cannot be used"},
		{exitListen, "an address cannot be listened on"},
		{exitCareful, "the doctor found something to be done; messages pass"},
		{exitBroken, "the doctor found something broken"},
	}
}

// failure is an error with its exit code and what to do about it.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func usageError(what string) error {
	return &failure{exitUsage, errors.New(what), "the commands are listed by: e2ee-proxy help"}
}

// usageErrorOf returns the error of a mistake in the flags of a command; meant is the flag
// that was probably meant, if any.
func usageErrorOf(c command, what, meant string) error {
	hint := "the flags are listed by: e2ee-proxy " + c.name + " -h"
	if meant != "" {
		hint = "did you mean --" + meant + "?\nhint: " + hint
	}
	return &failure{exitUsage, errors.New(what), hint}
}

// exit renders an error and returns the exit code for it.
func (p *process) exit(err error) int {
	if err == nil {
		return exitOK
	}
	code, hint := exitRuntime, ""
	if problems := (*config.Error)(nil); errors.As(err, &problems) {
		code, hint = exitConfig, "every setting is explained by: e2ee-proxy config example"
	}
	if h := interface{ Hint() string }(nil); errors.As(err, &h) {
		hint = h.Hint()
	}
	if f := (*failure)(nil); errors.As(err, &f) {
		code = f.code
		if f.hint != "" {
			hint = f.hint
		}
	}
	text := "e2ee-proxy: " + err.Error() + "\n"
	if hint != "" && !strings.Contains(text, hint) {
		text += "hint: " + hint + "\n"
	}
	// If standard error is gone, nobody can read it.
	_, _ = fmt.Fprint(p.stderr, text)
	return code
}
