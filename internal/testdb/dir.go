package testdb

import (
	"os"
	"testing"
)

// Dir returns a folder for databases, removed after the test. It is in memory if the system
// has enough: what tests show about a process that ends does not depend on the disk, for
// which every commit would wait.
func Dir(t *testing.T) string {
	t.Helper()
	const memory = "/dev/shm"
	if !hasRoom(memory) {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "e2ee-proxy-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
