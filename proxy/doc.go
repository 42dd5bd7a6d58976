// Package proxy is the life of one request, one file for each step:
//
//  1. listen: deadlines that suit long polls, graceful drain
//  2. limits: body size and concurrency, as data in the route table
//  3. canonical: the request target becomes an endpoint, or is refused
//  4. route: one table decides what may pass, what is intercepted, what is refused
//  5. identity: access token to user and device
//  6. intercept: the endpoint's handler, or straight through
//  7. upstream: the way to the homeserver
//  8. rewrite: bodies are rewritten by the interceptors, not here
//  9. render: the only place that turns an error into a response
//  10. account: one log line and the metrics
//
// It promises that what goes upstream is rebuilt from the endpoint that was judged and
// is never the client's bytes; that a path which could write to a room is intercepted
// or refused; that what is not intercepted passes unchanged; and that every request is
// answered, logged once and counted.
//
// It must never log a token, a raw path, a query or a body, follow a redirect, use a
// proxy of the environment, or believe a header about who the client is.
//
// Importers: cmd/e2ee-proxy. It imports interceptors and what lies below.
package proxy
