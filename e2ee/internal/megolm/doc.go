// Package megolm says what a kept room key is: whose it is, what its data looks like to other
// clients, and what becomes of it when it comes again. It has no state.
//
// It promises:
//   - Who owns a key is what the Olm channel proved, what an authenticated backup attests, or
//     a claim that proves nothing, and one is never taken for another.
//   - A ratchet takes the place of another only if it leads to it (requirement 8.3, attacks
//     A12 and N2); an owner that is proven is never given up for one that is not.
//   - Everybody who sends a key keeps a claim to it, in their own name only.
//   - What other clients had put beside a key is still there when it is given on.
//
// It must never ask the homeserver or the database, decide who gets a key, or print one.
//
// Importers: e2ee and the packages above it below e2ee/internal.
package megolm
