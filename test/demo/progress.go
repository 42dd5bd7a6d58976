package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// stillEvery is how often a step that takes long says that it is still going on.
const stillEvery = 5 * time.Second

// prepare does one step of the preparations and shows that it goes on, and how long it took.
func (s *stage) prepare(what string, do func()) { withProgress(os.Stdout, stillEvery, what, do) }

// withProgress writes the name of a step, a dot for each while that it takes, and its time at the
// end, also when it ends by runtime.Goexit.
func withProgress(w io.Writer, every time.Duration, what string, do func()) {
	begun := time.Now()
	_, _ = fmt.Fprintf(w, "  %s ", what)
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() { // ends with done
		defer close(stopped)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = fmt.Fprint(w, ".")
			case <-done:
				return
			}
		}
	}()
	defer func() {
		close(done)
		<-stopped
		_, _ = fmt.Fprintf(w, " %.0f s\n", time.Since(begun).Seconds())
	}()
	do()
}
