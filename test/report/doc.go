// Command report reads what `go test -json` prints and shows it as `go test` would, and at
// the end what was skipped, with the reason of each, and which packages took longest.
//
// It promises that everything `go test` shows without -json is shown, when it comes: the
// line of each package, the whole output of tests that failed, and what is no JSON. It exits
// with 1 when a test or a build failed.
//
// It must never turn a failure into a success, or leave out a test that was skipped.
//
// Importers: none; it is a program of the Makefile.
package main
