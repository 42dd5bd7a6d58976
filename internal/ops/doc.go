// Package ops serves the proxy's operators: whether it is alive, whether it is ready, and
// its metrics.
//
// It promises exactly three paths, /livez, /readyz and /metrics, spelled exactly so, for
// GET and HEAD only, and that no answer contains an address, a token or the text of an
// error. Refusals are Matrix errors.
//
// It must never change anything, or be served on the listener for clients.
//
// Importers: cmd/e2ee-proxy.
package ops
