package testproc

import "golang.org/x/sys/unix"

// Containers often have 64 MB of it, which a few databases fill.
const enough = 1 << 30

func hasRoom(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && s.Bavail*uint64(s.Bsize) >= enough
}
