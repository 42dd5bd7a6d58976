// Package interceptors changes what passes between a client and the homeserver: one
// file per endpoint family, each of which says what it changes and what it refuses. What they
// share lies in packages below: what a request is (exchange), the rewriting of events
// (rewrite), filters (filter), the control API (control), and errors (engineerr, apierr).
//
// It promises that clear text for a room that is or ever was encrypted never reaches
// the homeserver, that what the client is shown was decided by trustcache, and that a
// handler either answers completely or returns an error for the one renderer.
//
// It must never render an error itself, read a token from anywhere but the Exchange,
// or decide trust on its own.
//
// Importers: proxy and cmd/e2ee-proxy. It imports e2ee and what lies below.
package interceptors
