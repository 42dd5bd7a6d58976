package testproc

import (
	"context"
	"os"
)

// TB is the part of [testing.TB] that the harness uses, so that a program such as
// test/demo can use the harness too.
type TB interface {
	Helper()
	Name() string
	Context() context.Context
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Failed() bool
	Cleanup(f func())
	TempDir() string
}

// RequireAll is the environment variable that turns a missing part from a skipped
// test into a failed one.
const RequireAll = "E2EE_PROXY_REQUIRE_ALL"

// Missing ends the test because a part of the harness is not on this machine and
// could not be obtained: skipped, or failed when RequireAll is "1". It is the only
// place that decides so.
func Missing(t TB, part string, err error) {
	t.Helper()
	if os.Getenv(RequireAll) == "1" {
		t.Fatalf("%s is required (%s=1) but missing: %v", part, RequireAll, err)
	}
	t.Skipf("%s is missing: %v", part, err)
}
