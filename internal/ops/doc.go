// Package ops serves the proxy's operators: whether it is alive, whether it is ready, its
// metrics, and the calls of administrators.
//
// It promises:
//   - Without a token there are exactly three paths, /livez, /readyz and /metrics, spelled exactly
//     so, for GET and HEAD only; none of them changes anything, or needs a token.
//   - What is below /admin is done for nobody without the token, and is not there when none is set.
//   - No answer contains an address, a token or the text of an error. Refusals are Matrix errors.
//
// It must never be served on the listener for clients.
//
// Importers: cmd/e2ee-proxy.
package ops
