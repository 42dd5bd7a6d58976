package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"e2ee-proxy/config"
	"e2ee-proxy/internal/coredump"
	"e2ee-proxy/internal/terminal"
)

func main() {
	p := &process{environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(p.exit(p.run(os.Args[1:])))
}

// process is what the commands use of the world outside.
type process struct {
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer

	person *terminal.Terminal // see terminal
	// describe is what parse calls instead of parsing, for those who want to know the flags.
	describe func(c command, fs *flag.FlagSet)
}

// run finds the command that the arguments begin with, and runs it with the rest. Core
// dumps are forbidden for all commands, because keys may get into memory.
func (p *process) run(args []string) error {
	if err := coredump.Forbid(); err != nil {
		return &failure{exitRuntime, err, "let the process lower its own limits: a filter of system calls must allow prctl and prlimit64"}
	}
	args, forHelp := helpAliases(args)
	if len(args) == 0 && !forHelp {
		return usageError("no command")
	}
	given := strings.Join(args, " ")
	for _, c := range commands() {
		if given == c.name || strings.HasPrefix(given, c.name+" ") {
			rest := args[strings.Count(c.name, " ")+1:]
			if forHelp {
				rest = append(rest, "-h")
			}
			return c.run(p, c, rest)
		}
	}
	switch {
	case len(args) == 0:
		return p.print(usage(p.terminal(), ""))
	case inGroup(args[0]) && (forHelp || len(args) > 1 && isHelp(args[1])):
		return p.print(usage(p.terminal(), args[0]+" "))
	}
	return unknownCommand(args)
}

// helpAliases translates the usual ways to ask for help and the version into commands. forHelp
// reports whether the command's help is wanted.
func helpAliases(args []string) (command []string, forHelp bool) {
	switch {
	case len(args) == 0:
		return nil, false
	case args[0] == "help" || isHelp(args[0]):
		return slices.Clone(args[1:]), true
	case len(args) == 1 && slices.Contains([]string{"-v", "-V", "-version", "--version"}, args[0]):
		return []string{"version"}, false
	}
	return slices.Clone(args), false
}

func isHelp(arg string) bool { return slices.Contains([]string{"-h", "-help", "--help"}, arg) }

// inGroup reports whether a word begins commands of two words.
func inGroup(word string) bool {
	return slices.ContainsFunc(commands(), func(c command) bool { return strings.HasPrefix(c.name, word+" ") })
}

// unknownCommand returns the error for an unknown command, with the one that was probably
// meant.
func unknownCommand(args []string) error {
	given, candidates := args[0], make([]string, 0)
	if inGroup(given) && len(args) > 1 {
		given += " " + args[1]
	}
	for _, c := range commands() {
		if c.hidden() {
			continue
		}
		candidates = append(candidates, c.name)
		if inGroup(args[0]) && !strings.HasPrefix(c.name, args[0]+" ") {
			candidates = candidates[:len(candidates)-1]
		}
	}
	hint := "the commands are listed by: e2ee-proxy help"
	switch {
	case inGroup(given):
		hint = "there are: " + strings.Join(candidates, ", ")
	case config.Nearest(given, candidates) != "":
		hint = "did you mean " + config.Nearest(given, candidates) + "? " + hint
	}
	return &failure{exitUsage, fmt.Errorf("%q is not a command", given), hint}
}

// usage lists the commands whose names begin with prefix; with "" all of them and
// everything else.
func usage(t *terminal.Terminal, prefix string) string {
	var b strings.Builder
	b.WriteString("e2ee-proxy does end-to-end encryption for Matrix clients that cannot.\n\n" + t.Paint(terminal.Bold, "Usage:") + "\n")
	for _, c := range commands() {
		if strings.HasPrefix(c.name, prefix) && !c.hidden() {
			name := strings.TrimSpace(c.name + " " + c.args)
			b.WriteString(terminal.Wrap(c.summary, 33, fmt.Sprintf("  e2ee-proxy %-19s ", name)))
		}
	}
	b.WriteString("\nFlags of a command: e2ee-proxy COMMAND -h, or: e2ee-proxy help COMMAND\n")
	if prefix != "" {
		return b.String()
	}
	b.WriteString("\n" + t.Paint(terminal.Bold, "The shortest way to run it:") + "\n" +
		"  e2ee-proxy serve --homeserver https://matrix.example.org\n\n" + t.Paint(terminal.Bold, "Exit codes:") + "\n")
	for _, e := range exitCodes() {
		b.WriteString(terminal.Wrap(e.meaning, 5, fmt.Sprintf("  %d  ", e.code)))
	}
	return b.String()
}

// parse parses the flags of a command, which takes no other arguments. done reports whether
// help was asked for and printed.
func (p *process) parse(c command, fs *flag.FlagSet, args []string) (done bool, err error) {
	_, done, err = p.parseArgs(c, fs, args)
	return done, err
}

// parseArgs is parse for a command that takes arguments, which may stand before or after its
// flags.
func (p *process) parseArgs(c command, fs *flag.FlagSet, args []string) (rest []string, done bool, err error) {
	if p.describe != nil {
		p.describe(c, fs)
		return nil, true, nil
	}
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	for left := args; ; left = left[1:] {
		switch err := fs.Parse(left); {
		case errors.Is(err, flag.ErrHelp):
			return nil, true, p.print(flagHelp(p.terminal(), c, fs))
		case err != nil:
			return nil, false, usageErrorOf(c, err.Error(), meantFlag(fs, args))
		}
		if left = fs.Args(); len(left) == 0 {
			break
		}
		rest = append(rest, left[0])
	}
	takes := strings.Fields(c.args)
	if len(rest) > len(takes) {
		return nil, false, usageErrorOf(c, fmt.Sprintf("unexpected argument %q", rest[len(takes)]), "")
	}
	if len(rest) < len(takes) && !strings.HasPrefix(takes[len(rest)], "[") {
		return nil, false, usageErrorOf(c, takes[len(rest)]+" is missing", "")
	}
	return rest, false, nil
}

// print writes to standard output.
func (p *process) print(text string) error {
	if _, err := io.WriteString(p.stdout, text); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}
