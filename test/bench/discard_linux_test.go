package main

import (
	"errors"

	"golang.org/x/sys/unix"
)

// discard throws away what has come on a connection, up to the length of p, without copying it to
// p, and returns how much that was.
func discard(fd uintptr, p []byte) (int, error) {
	n, _, err := unix.Recvfrom(int(fd), p, unix.MSG_TRUNC)
	return n, err
}

// waits reports whether nothing has come yet.
func waits(err error) bool { return errors.Is(err, unix.EAGAIN) }
