// Package identity has the private keys of a user's identity (cross-signing), what is
// published of them, and the names under which an account's secrets are kept. It has no state.
//
// It promises:
//   - What is published is made of these keys only, and each is signed as the specification
//     says (requirements 12.2, 12.3).
//   - Keys that do not belong to the published identity are named ([Keys.Misfits]): with
//     another master key none does.
//
// It must never ask the homeserver or the database, decide whether an identity is made or
// replaced, or print a key.
//
// Importer: e2ee.
package identity
