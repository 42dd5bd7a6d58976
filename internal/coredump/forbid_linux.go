package coredump

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Forbid forbids core dumps of this process. The limit alone does not help where the kernel
// hands cores to a program (core(5), "Piping core dumps to a program"); a process that is
// not dumpable has none anywhere (prctl(2), PR_SET_DUMPABLE).
func Forbid() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return limit()
}
