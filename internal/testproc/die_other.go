//go:build unix && !linux

package testproc

import "syscall"

// dieWithParent has no counterpart outside Linux: there, children outlive a test
// binary that is killed.
func dieWithParent() *syscall.SysProcAttr { return nil }
