//go:build unix

package coredump

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// limit sets the limit on the size of core files to zero, for good.
func limit() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("limit the size of core dumps: %w", err)
	}
	return nil
}
