// Package testpg runs a private PostgreSQL server for tests.
//
// It promises a server of its own for each test binary, on a socket in a temporary
// directory, that is gone when the binary ends, however it ends. Without PostgreSQL on
// the machine it skips the test, and fails it when E2EE_PROXY_REQUIRE_ALL is 1.
//
// It must never touch a server that it did not start. Only tests import it.
package testpg
