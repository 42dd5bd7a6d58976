// Package testproxy runs the proxy as its users do: the binary of cmd/e2ee-proxy, as a
// child process with its own data folder and free ports.
//
// It promises to run what the sources say now, with the race detector when the test
// has it, and to keep data and ports over a restart.
//
// It must never import the proxy's packages.
//
// Importers: tests, and programs under test/.
package testproxy
