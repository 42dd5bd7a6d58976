package sdnotify

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// monotonic returns the clock by which the service manager tells one reload from the next, in
// microseconds.
func monotonic() (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return now.Nano() / 1000, nil
}
