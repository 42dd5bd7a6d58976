// Package exchange is what every handler works with: one request on its way through the
// proxy, what it may ask of the homeserver and of the engine, and how bodies are read,
// replaced and kept.
//
// It promises:
//   - A body that is read whole was limited by its route, and has no more values in it than
//     was reserved for it.
//   - Bodies that are kept are within what one user, and all together, may have in memory and
//     on the disk; what has no room is an error that says so.
//   - Rooms and users in a path are what they are said to be, in one spelling.
//
// It must never decide what a request or an answer means, change an event, or read a token
// from anywhere but the [Exchange].
//
// Importers: the packages of interceptors. Package interceptors shows its types to proxy.
package exchange
