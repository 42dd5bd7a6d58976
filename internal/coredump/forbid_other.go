//go:build !unix

package coredump

// Forbid does nothing: there is nothing of the kind that a process could ask for.
func Forbid() error { return nil }
