// Package trustcache keeps what is known of users' identities and devices, and decides what
// follows from it.
//
// It promises:
//   - Decisions ([Share], [Gate], [Judge], [ToDevice]) are pure functions of a snapshot and
//     a policy, and their zero value refuses.
//   - Nothing is believed that was not checked over the bytes the homeserver sent:
//     self-signatures, the chain master key → self-signing key → device, and the user and
//     device named inside.
//   - A [User] is an immutable snapshot. Memory never claims to be fresh across a change
//     that the homeserver reported, whether or not its commit succeeded.
//   - A homeserver can neither erase an identity nor accept a change of it.
//
// It must never talk to the homeserver itself (callers bring a [KeyQuerier]), hold a lock
// while a query is in flight, read a key out of the event that is being judged, or confuse
// a device ID with the key ID of a cross-signing key (requirement 1.25).
//
// "The reference" in comments and tests is matrix-rust-sdk. The tests' tables show where
// this package decides otherwise, and why.
//
// Importers: e2ee, what lies below e2ee/internal, and cmd/e2ee-proxy. It imports store and
// internal packages only.
package trustcache
