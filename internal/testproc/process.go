package testproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a child process that a test started.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  *Log
	done chan struct{} // closed when the process has ended
	err  error         // how it ended; read after done
}

// Start starts cmd. Its standard error goes to the log, and its standard output too
// when cmd does not say otherwise. The process ends when the test does; when the test
// failed, the end of its log is printed.
func Start(t TB, name string, cmd *exec.Cmd) (*Process, error) {
	t.Helper()
	p := &Process{name: name, cmd: cmd, log: &Log{}, done: make(chan struct{})}
	cmd.Stderr = p.log
	if cmd.Stdout == nil {
		cmd.Stdout = p.log
	}
	cmd.SysProcAttr = dieWithParent()
	return p, p.start(t, func() {})
}

// start starts the process; ended is called when it has ended, before anybody is told.
func (p *Process) start(t TB, ended func()) error {
	t.Helper()
	// What a grandchild keeps open must not delay the end.
	p.cmd.WaitDelay = time.Second
	started := make(chan error, 1)
	go func() {
		// The thread must outlive the child, see dieWithParent.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			ended()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", p.name, p.log.Tail(60))
		}
	})
	return nil
}

// Kill ends the process at once (SIGKILL) and waits for its end. It may have ended before.
func (p *Process) Kill() {
	// The only error possible is that it has ended already.
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to end (SIGTERM) and kills it when it has not after the deadline.
func (p *Process) Stop(deadline time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		p.Kill()
		return fmt.Errorf("stop %s: still running after %s, killed", p.name, deadline)
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Pid returns the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// ExitCode waits for the end and returns the exit code, -1 for a signal.
func (p *Process) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Log returns what the process has written so far.
func (p *Process) Log() *Log { return p.log }

// AwaitReady waits until done is true, the process ends, or the deadline passes.
func (p *Process) AwaitReady(ctx context.Context, deadline time.Duration, done func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	ended := errors.New("ended")
	ctx, cancelCause := context.WithCancelCause(ctx)
	defer cancelCause(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-p.done:
			cancelCause(ended)
		case <-stop:
		}
	}()
	err := Await(ctx, done)
	if err != nil && errors.Is(context.Cause(ctx), ended) {
		return fmt.Errorf("%s ended before it was ready: %w\n%s", p.name, p.err, p.log.Tail(40))
	}
	if err != nil {
		return fmt.Errorf("%s is not ready after %s: %w\n%s", p.name, deadline, err, p.log.Tail(40))
	}
	return nil
}

// Log keeps what a process writes, at most its last megabytes.
type Log struct {
	mu   sync.Mutex
	data []byte
}

const logLimit = 8 << 20

// Write appends and never fails.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = append(l.data, p...)
	if over := len(l.data) - logLimit; over > 0 {
		l.data = append([]byte(nil), l.data[over:]...)
	}
	return len(p), nil
}

// String returns all that is kept.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.data)
}

// Tail returns the last n lines.
func (l *Log) Tail(n int) string {
	lines := strings.Split(strings.TrimRight(l.String(), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Run runs cmd to its end with a deadline; an error carries the end of its output.
func Run(ctx context.Context, deadline time.Duration, dir string, env []string, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	log := &Log{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, log.Tail(30))
	}
	return nil
}
