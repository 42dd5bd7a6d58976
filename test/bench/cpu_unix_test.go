//go:build unix

package main

import (
	"syscall"
	"time"
)

// cpuTime returns what this process has used of the processors, so that a benchmark can
// tell its cost on a machine that does other things too.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
