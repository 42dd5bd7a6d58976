package parallel

import (
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// PanicError is a panic of a goroutine, told to whoever waits for it: it would end the process otherwise,
// for all who use it. It says the type of the value alone, which could hold anything, and the place.
type PanicError struct {
	Kind  string
	Stack []byte
}

func (p *PanicError) Error() string { return fmt.Sprintf("panic with a %s at %s", p.Kind, p.Stack) }

// panicOf returns what a recovered value is.
func panicOf(v any) *PanicError {
	if p, ok := v.(*PanicError); ok {
		return p
	}
	return &PanicError{Kind: fmt.Sprintf("%T", v), Stack: debug.Stack()}
}

// Try calls f. A panic of it is an error.
func Try(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicOf(v)
		}
	}()
	return f()
}

// Safe returns f with a panic as an error of it, for groups of goroutines that know errors only.
func Safe(f func() error) func() error { return func() error { return Try(f) } }

// Group is goroutines that somebody waits for. The zero value is ready for use.
type Group struct {
	all   sync.WaitGroup
	first atomic.Pointer[PanicError]
}

// Go calls f in a goroutine.
func (g *Group) Go(f func()) {
	g.all.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				g.first.CompareAndSwap(nil, panicOf(v))
			}
		}()
		f()
	})
}

// Wait waits until all have returned. It panics if one of them did.
func (g *Group) Wait() {
	g.all.Wait()
	if p := g.first.Load(); p != nil {
		panic(p)
	}
}
