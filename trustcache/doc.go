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
// # Answers that accounts share
//
// What a homeserver answers about somebody is the same for all of its accounts, but for the
// asker's own signatures. So an account takes what another was answered, under these rules
// ([Answers]):
//   - It is judged like an answer of the account's own: all signatures are checked again, and
//     pins, warnings and exceptions are the account's.
//   - It was asked for after the last change of that user that this account was told of, and
//     after the account's devices began to sync without a gap. Every later change will be told
//     to this very account. So what is fresh is as fresh as after a query of its own, and an
//     answer that is kept, held back or brought back can hide nothing that happened meanwhile.
//   - It is at most a minute old, for users with whom the account shares no room: nobody tells
//     it of their changes.
//   - The account's own user, users who were verified, and everybody for an account whose
//     user-signing key another client may have, are asked about by the account itself: whom
//     that client has verified shows to nobody else. Such signatures are not passed on either.
//   - An answer without devices, and failures other than that a user's server cannot be
//     reached, are nobody else's. Clients with keys of their own share nothing.
//
// # Answers from other replicas
//
// Replicas leave answers for each other in a place that is believed in nothing ([Board]; with
// Redis, package rediscache, which seals what is left for the user that it is about). Nobody
// who can read, change, keep or put back what is there can do more than make a replica ask:
//   - How new an answer is, no clock and no counter of that place says. Each replica counts its
//     own moments, and tells the others how far it is. Who asks the homeserver writes into the
//     sealed answer how far every other replica was known to be just before. So a replica reads
//     out of it a moment of its own after which the homeserver was asked, and treats the answer
//     like one of its own from that moment: the rules above decide.
//   - A message or an answer that is late, or put back, names earlier moments, which only makes
//     it of less use. One from before a process began names another process.
//   - So an answer with a device that was logged out since, or an identity that was replaced, is
//     taken only by an account that was not told yet; whether it took the answer or had known
//     the user before, the change reaches it by its own syncs and nothing else.
//   - What is forged, cut or about somebody else does not open, or is a miss; and if it opened,
//     its signatures would be checked again.
//
// One replica of several asks: who is first to claim a user. That saves queries and excludes
// nobody; who claimed and died costs the others two seconds, a place that is gone nothing.
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
