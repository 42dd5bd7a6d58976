// Package controlclient asks a running proxy's control API, for the commands: over the socket
// of the machine's owner, or with an access token over the listener for clients.
//
// It promises that an answer is the proxy's, or an error that says what to do, and that a
// secret in a request is in no error.
//
// It must never read the database, or follow a redirect.
//
// Importer: cmd/e2ee-proxy.
package controlclient
