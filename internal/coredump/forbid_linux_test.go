package coredump_test

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"e2ee-proxy/internal/coredump"
)

// inside says that the test runs in a process of its own, which stays as it becomes.
const inside = "E2EE_PROXY_TEST_COREDUMP"

// Attack: a crash, or somebody who can cause one, leaves the keys of every account in a
// file, or with a program that collects cores.
//
// Expected: the process has no cores, by either way, and cannot be made to have them again.
func TestForbid(t *testing.T) {
	t.Parallel()
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestForbid$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 1 {
		t.Fatalf("dumpable is %d before, %v", dumpable, err)
	}
	if err := coredump.Forbid(); err != nil {
		t.Fatal(err)
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("dumpable is %d, %v", dumpable, err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Cur != 0 || limit.Max != 0 {
		t.Errorf("the limit is %+v, %v", limit, err)
	}
	if err := coredump.Forbid(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}
