// Package olm has the cryptography of messages between devices: the private keys of ours,
// its Olm sessions with others, and the plaintexts that go through them. It has no state of
// its own: what it is given it changes, and the caller stores it.
//
// It promises:
//   - An [Account] is changed only by what says so; sessions are made from a copy or from one
//     that is only read.
//   - [Sessions] remember what must be stored: a session that has encrypted or decrypted is
//     among the changes that [Sessions.Collect] adds, and a message that could not be
//     decrypted has changed nothing (requirement 6.13).
//   - [OpenEnvelope] returns a plaintext only if it belongs to the message that it came in
//     (requirement 6.7).
//   - A one-time key is used only if its device has signed it.
//
// It must never ask the homeserver or the database, decide who gets something, or print a key.
//
// Importers: e2ee and the packages above it below e2ee/internal.
package olm
