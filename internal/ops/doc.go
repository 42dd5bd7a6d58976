// Package ops answers those who operate the proxy: is it alive, is it ready, what are
// its figures.
//
// It promises exactly three paths, /livez, /readyz and /metrics, spelled exactly so,
// for GET and HEAD only, and that nothing it answers contains an address, a token or
// the text of an error. What it refuses is an error in the form of Matrix.
//
// It must never change anything, or be served on the listener for clients.
//
// Importers: cmd/e2ee-proxy.
package ops
