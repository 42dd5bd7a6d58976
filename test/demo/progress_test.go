package main

import (
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Report: the demo said nothing for over two minutes while it prepared, and looked stuck.
func TestPreparationsShowThatTheyGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		withProgress(&out, 5*time.Second, "Dendrite", func() { time.Sleep(17 * time.Second) })
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			withProgress(&out, 5*time.Second, "Node", runtime.Goexit)
		}()
		<-ended
		if want := "  Dendrite ... 17 s\n  Node  0 s\n"; out.String() != want {
			t.Errorf("shown is %q, want %q", out.String(), want)
		}
	})
}
