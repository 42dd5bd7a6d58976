//go:build unix && !linux

package coredump

// Forbid forbids core dumps of this process.
func Forbid() error { return limit() }
