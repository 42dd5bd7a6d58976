// Package e2e proves the whole proxy with real parts: the binary as it is shipped,
// real homeservers, and real clients on both sides. It has tests only.
//
// It promises that a test that passes here shows what a user would see.
//
// It must never import the proxy's own packages: the proxy is a program here.
//
// Importers: none.
package e2e
