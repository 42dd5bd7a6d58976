package fileplace

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Of returns a name of a file that a copy of it, even one put in its place, does not share:
// an inode number may be used again, but not with the same time of birth.
func Of(path string) (string, error) {
	var s unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &s); err != nil {
		return "", fmt.Errorf("stat database file: %w", err)
	}
	if s.Mask&unix.STATX_BTIME == 0 {
		return fmt.Sprintf("inode %d", s.Ino), nil
	}
	return fmt.Sprintf("inode %d born %d.%09d", s.Ino, s.Btime.Sec, s.Btime.Nsec), nil
}
