package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"e2ee-proxy/internal/coredump"
)

func main() {
	p := &process{environ: os.Environ(), stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(p.exit(p.run(os.Args[1:])))
}

// process is the outside world, as far as the commands use it.
type process struct {
	environ        []string
	stdout, stderr io.Writer
}

// command is one row of the command line.
type command struct {
	name    string
	summary string
	run     func(p *process, c command, args []string) error
}

func commands() []command {
	return []command{
		{"serve", "run the proxy", serve},
		{"version", "print the version", version},
		{"config check", "check the configuration and report every problem", configCheck},
		{"config example", "print a commented configuration with every setting", configExample},
		{"recovery-key", "print the recovery key that the proxy made for an account", recoveryKey},
		{"discard-sessions", "discard sending keys, after a machine was set back to a snapshot", discardSessions},
	}
}

// run finds the command that the arguments begin with, and runs it with the rest. Whatever
// it is, keys may get into memory, which must not be written to a file when it crashes.
func (p *process) run(args []string) error {
	if err := coredump.Forbid(); err != nil {
		return &failure{exitRuntime, err, "let the process lower its own limits: a filter of system calls must allow prctl and prlimit64"}
	}
	given := strings.Join(args, " ")
	for _, c := range commands() {
		if given == c.name || strings.HasPrefix(given, c.name+" ") {
			return c.run(p, c, args[strings.Count(c.name, " ")+1:])
		}
	}
	switch {
	case len(args) == 0:
		return usageError("no command")
	case args[0] == "help" || args[0] == "-h" || args[0] == "--help" || args[0] == "-help":
		return p.print(usage())
	default:
		return usageError(fmt.Sprintf("%q is not a command", args[0]))
	}
}

func usage() string {
	var b strings.Builder
	b.WriteString("e2ee-proxy does end-to-end encryption for Matrix clients that cannot.\n\nUsage:\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  e2ee-proxy %-16s %s\n", c.name, c.summary)
	}
	b.WriteString("\nFlags of a command: e2ee-proxy COMMAND -h\n\nThe shortest way to run it:\n" +
		"  e2ee-proxy serve --homeserver https://matrix.example.org\n\nExit codes:\n")
	for _, e := range exitCodes() {
		fmt.Fprintf(&b, "  %d  %s\n", e.code, e.meaning)
	}
	return b.String()
}

// parse reads the flags of a command, which takes no other arguments. done says that
// help was asked for and given.
func (p *process) parse(c command, fs *flag.FlagSet, args []string) (done bool, err error) {
	var text strings.Builder
	fs.SetOutput(&text)
	fs.Usage = func() {
		fmt.Fprintf(&text, "Usage: e2ee-proxy %s [flags]\n\n%s.\n", c.name, strings.ToUpper(c.summary[:1])+c.summary[1:])
		if hasFlags(fs) {
			fmt.Fprintln(&text, "\nFlags:")
			fs.PrintDefaults()
		}
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return true, p.print(text.String())
	case err != nil:
		return false, usageErrorOf(c, err.Error())
	case fs.NArg() > 0:
		return false, usageErrorOf(c, fmt.Sprintf("unexpected argument %q", fs.Arg(0)))
	default:
		return false, nil
	}
}

func hasFlags(fs *flag.FlagSet) bool {
	any := false
	fs.VisitAll(func(*flag.Flag) { any = true })
	return any
}

// print writes what was asked for to standard output.
func (p *process) print(text string) error {
	if _, err := io.WriteString(p.stdout, text); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}
