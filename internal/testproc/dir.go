package testproc

import "os"

// FastTemp is where folders for databases are made, for [os.MkdirTemp]. Where the system has
// room in memory it lies there: what is shown about a process that ends does not depend on the
// disk, for which every commit would wait.
func FastTemp() string {
	const memory = "/dev/shm"
	if hasRoom(memory) {
		return memory
	}
	return ""
}

// FastDir gives a folder for databases that goes with the test.
func FastDir(t TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(FastTemp(), "e2ee-proxy-test-")
	if err != nil {
		t.Fatalf("make a folder: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove a test's folder: %v", err)
		}
	})
	return dir
}
