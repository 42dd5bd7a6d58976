// Package identity has the private keys of a user's identity (cross-signing), their public
// objects, and the names under which an account's secrets are stored. It has no state.
//
// It promises:
//   - The published objects contain these keys only, each signed as the specification says
//     (requirements 12.2, 12.3).
//   - Keys that do not belong to the published identity are found ([Keys.Misfits]): with
//     another master key none does.
//
// It must never ask the homeserver or the database, decide whether an identity is made or
// replaced, or print a key.
//
// Importers: e2ee and its internal packages.
package identity
