// Package trustcache knows other users' identities and devices, and decides what
// follows from them.
//
// It promises:
//   - Decisions ([Share], [Gate], [Judge], [ToDevice]) are pure functions of a snapshot
//     and a policy, and their zero value refuses.
//   - Nothing is believed that was not checked over the bytes the homeserver sent:
//     self-signatures, the chain master key → self-signing key → device, and the user
//     and device named inside.
//   - A [User] is an immutable snapshot. Memory never claims to be fresh across a change
//     the homeserver told us of, whether or not its commit succeeded.
//   - An identity is never erased, and a change of it is never accepted, by a homeserver.
//
// It must never talk to the homeserver itself (callers bring a [KeyQuerier]), hold a
// lock while a query is on its way, read a key out of the event that is being judged,
// or confuse a device ID with the key ID of a cross-signing key (requirement 1.25).
//
// Importers: e2ee, and interceptors for the types. It imports store and what lies below.
package trustcache
