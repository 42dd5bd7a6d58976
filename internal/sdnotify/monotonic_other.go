//go:build !linux

package sdnotify

// monotonic returns nothing where there is no systemd.
func monotonic() (int64, error) { return 0, nil }
