// Package megolm has the rules for stored room keys: who owns one, its data format for
// other clients, how a second copy is merged, and how messages are read and written with one. It has no
// state.
//
// It promises:
//   - A [Reader] reads what goolm reads, to the byte, and refuses what goolm refuses. A [Writer]
//     writes what goolm writes, to the byte.
//   - A key's owner is proven by the Olm channel, attested by an authenticated backup, or
//     only claimed, and these are never confused.
//   - A ratchet replaces another only if it leads to it (requirement 8.3, attacks A12 and
//     N2); a proven owner is never replaced by one that is not.
//   - Everybody who sends a key has a claim to it, in their own name only.
//   - Members that other clients added to a key's data are kept when it is passed on.
//
// It must never ask the homeserver or the database, decide who gets a key, or print one.
//
// Importers: e2ee and the packages above it below e2ee/internal.
package megolm
