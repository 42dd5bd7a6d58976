// Package testpeer drives real Matrix clients for tests: matrix-js-sdk with its Rust
// crypto (what Element uses), the same without crypto, and matrix-nio without olm.
//
// They are child processes that speak JSON lines; see test/peer/main.mjs and
// test/python/nio_peer.py for the other ends. It promises that every call has a
// deadline and that the clients end with the test.
//
// It must never be used outside tests.
//
// Importers: tests, and programs under test/.
package testpeer
