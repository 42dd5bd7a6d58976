// Package control is the control API, /_e2ee_proxy/v1/… (docs/control-api.md): its calls, what
// their bodies may say, and what a client is told when one fails.
//
// It promises:
//   - The access token names the account, and nothing in a request can name another one.
//   - A call is done only when the path seen here is that of the call which package proxy
//     decided on.
//   - A body is read strictly: a misspelt member is refused, and nothing is done.
//   - Answers are never cached, and what somebody with a stolen token might guess is slow.
//
// It must never pass a request on to the homeserver, change what the engine decides, or put a
// secret into an error.
//
// Importer: interceptors.
package control
