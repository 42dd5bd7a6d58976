package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// stage is the testing.TB of the demo: where the parts of the harness live and report.
type stage struct {
	ctx      context.Context // not a request's: it lives as long as the demo
	failed   bool
	cleanups []func()
}

// play runs the demo on a stage and returns the exit code.
func play(ctx context.Context, demo func(s *stage)) int {
	s := &stage{ctx: ctx}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.strike()
		demo(s)
	}()
	<-done
	if s.failed {
		return 1
	}
	return 0
}

// strike ends what runs, the last first.
func (s *stage) strike() {
	for len(s.cleanups) > 0 {
		last := s.cleanups[len(s.cleanups)-1]
		s.cleanups = s.cleanups[:len(s.cleanups)-1]
		last()
	}
}

func (s *stage) Helper()                  {}
func (s *stage) Name() string             { return "demo" }
func (s *stage) Context() context.Context { return s.ctx }
func (s *stage) Failed() bool             { return s.failed }
func (s *stage) Cleanup(f func())         { s.cleanups = append(s.cleanups, f) }

func (s *stage) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, strings.TrimRight(format, "\n")+"\n", args...)
}

func (s *stage) Errorf(format string, args ...any) {
	s.failed = true
	s.Logf("✗ "+format, args...)
}

func (s *stage) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

// Skipf is a failure here: without its parts there is nothing to show.
func (s *stage) Skipf(format string, args ...any) { s.Fatalf(format, args...) }

func (s *stage) TempDir() string {
	dir, err := os.MkdirTemp("", "e2ee-proxy-demo-")
	if err != nil {
		s.Fatalf("make a folder: %v", err)
	}
	s.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.Errorf("remove %s: %v", dir, err)
		}
	})
	return dir
}
