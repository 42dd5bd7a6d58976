//go:build unix

package bodyless

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const canLook = true

// quiet reports whether a connection is open and nothing has come on it. What comes while nobody
// asks belongs to no request: the server's farewell, or an answer that would be taken for the next
// one's.
func quiet(c net.Conn) bool {
	with, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := with.SyscallConn()
	if err != nil {
		return false
	}
	nothing := false
	err = raw.Control(func(fd uintptr) {
		var one [1]byte
		_, _, failed := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		nothing = failed == unix.EAGAIN
	})
	return err == nil && nothing
}
