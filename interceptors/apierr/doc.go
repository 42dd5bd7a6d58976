// Package apierr has the errors that clients are shown: a Matrix error code, what happened,
// and what to do about it.
//
// It promises:
//   - What a client is shown is made of parts that are public by themselves; the cause goes
//     to the log only.
//   - An answer of the homeserver that is no Matrix error reveals nothing of its content.
//
// It must never hold a secret, a clear text or the text of somebody else's error in what a
// client is shown, or write a response: package proxy does, in one place.
//
// Importers: interceptors, its packages, and proxy.
package apierr
