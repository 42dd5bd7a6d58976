// Package controlroom has the control room of an account: a room in which a person and the
// proxy talk to each other, and which exists only between the proxy and the account's clients.
//
// It promises:
//   - The room, its events and the proxy in it have names that no homeserver can have
//     ([Server]), and each account's room has another one.
//   - A device is shown every message once, from any token it syncs with; again if it did not
//     get the answer that had it, and anew when it begins from nothing. Which it has is known by
//     the homeserver's tokens, with which nothing is done.
//   - What was said is stored before anybody is shown it, sealed, and within bounds.
//   - A warning is said in the room once. It opens a room that the user has left.
//   - There is none for an account whose notices are off.
//
// It must never ask the homeserver, say anything of its own accord but warnings, or keep what
// a person writes unless it is told to: what a message means is decided above.
//
// Importer: e2ee.
package controlroom
