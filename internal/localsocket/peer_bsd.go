//go:build darwin || freebsd

package localsocket

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peer returns the user of the process at the other end.
func peer(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("look at a connection: %w", err)
	}
	var who *unix.Xucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		who, failed = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("look at a connection: %w", err)
	}
	if failed != nil {
		return 0, fmt.Errorf("ask who is at the other end: %w", failed)
	}
	return int(who.Uid), nil
}
