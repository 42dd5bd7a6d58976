//go:build !unix

package coredump

// Forbid does nothing: there is nothing that a process could ask for.
func Forbid() error { return nil }
