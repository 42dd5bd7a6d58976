package testproc

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Terminal is a program at a terminal of 80 by 24, in front of which a test sits.
type Terminal struct {
	*Process
	t     TB
	keys  *os.File // the test's end
	shown chan struct{}
}

// patience bounds every wait at a terminal.
const patience = time.Minute

// OnTerminal starts cmd at a terminal of its own. What it shows is in its log, as it was
// written: with what moves the cursor, and \r\n for a new line.
func OnTerminal(t TB, name string, cmd *exec.Cmd) *Terminal {
	t.Helper()
	keys, screen, err := openTerminal()
	if err != nil {
		Missing(t, "a pseudo-terminal", err)
	}
	term := &Terminal{Process: &Process{name: name, cmd: cmd, log: &Log{}, done: make(chan struct{})}, t: t, keys: keys, shown: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
	cmd.SysProcAttr = atTerminal()
	go func() {
		defer close(term.shown)
		// Reading ends with an error when the last process at the terminal has closed it.
		_, _ = io.Copy(term.log, keys)
	}()
	err = term.start(t, func() {
		select {
		case <-term.shown: // nothing that it has shown is missed
		case <-time.After(time.Second): // another process keeps the terminal open
		}
	})
	screen.Close()
	t.Cleanup(func() { keys.Close() }) // after the process was killed, if it still ran
	if err != nil {
		t.Fatalf("%v", err)
	}
	return term
}

// Await waits until a text is shown.
func (p *Terminal) Await(text string) {
	p.t.Helper()
	p.AwaitShown(text, func(shown string) bool { return strings.Contains(shown, text) })
}

// AwaitShown waits until what is shown has something in it; what says what that is.
func (p *Terminal) AwaitShown(what string, has func(shown string) bool) {
	p.t.Helper()
	p.await(func(context.Context) error {
		if !has(p.log.String()) {
			return fmt.Errorf("%q is not shown", what)
		}
		return nil
	})
}

// AwaitHidden waits until the terminal does not show what is typed.
func (p *Terminal) AwaitHidden() {
	p.t.Helper()
	p.await(func(context.Context) error {
		shows, err := showsKeys(p.keys)
		if err == nil && shows {
			err = fmt.Errorf("what is typed is shown")
		}
		return err
	})
}

func (p *Terminal) await(done func(context.Context) error) {
	p.t.Helper()
	if err := p.AwaitReady(p.t.Context(), patience, done); err != nil {
		p.t.Fatalf("%v", err)
	}
}

// Type presses keys; \r is the one that ends a line.
func (p *Terminal) Type(keys string) {
	p.t.Helper()
	if _, err := io.WriteString(p.keys, keys); err != nil {
		p.t.Fatalf("type: %v", err)
	}
}

// End waits until the program ends, and returns all that was shown and its exit code.
func (p *Terminal) End() (shown string, code int) {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%s does not end", p.name)
	}
	return p.log.String(), p.ExitCode()
}
