// Package tesths runs real homeservers for tests: Dendrite, built from the module in
// test/dendrite, and Synapse, from a Python environment with the requirements of
// test/python.
//
// It promises a server of one's own on a loopback port with an empty SQLite database,
// no rate limits and no federation, which lives as long as the test (or, with
// [Shared], as the test binary) and keeps data and port over a restart.
//
// It must never talk to another machine once a server is built, or be used outside tests.
//
// Importers: tests, and programs under test/.
package tesths
