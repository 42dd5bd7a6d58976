package testdb

import (
	"os"
	"testing"
)

// Dir gives a folder for databases that goes with the test. Where the system has room in
// memory it lies there: what is shown about a process that ends does not depend on the
// disk, for which every commit would wait.
func Dir(t testing.TB) string {
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
