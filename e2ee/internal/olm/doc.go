// Package olm has the cryptography of messages between devices: a device's private keys,
// its Olm sessions with others, and their plaintexts. It has no state of its own but what
// [Account.Prepare] has made for sessions to come: it changes the values passed to it, and the
// caller stores them.
//
// It promises:
//   - An [Account] is changed only by the methods that say so; making a session only reads
//     it.
//   - [Sessions] know what must be stored: [Sessions.Collect] adds every session that has
//     encrypted or decrypted. A message that could not be decrypted changes nothing
//     (requirement 6.13).
//   - What [Sessions.SealAll] encrypts is taken from the sessions at once, and what
//     [OutboxItems] stores of it is made into the same bytes at every time: see [RecipeBody].
//   - [OpenEnvelope] returns a plaintext only if it belongs to its message (requirement
//     6.7).
//   - A one-time key is used only if its device has signed it.
//
// It must never ask the homeserver or the database, decide who gets something, or print a key.
//
// Importers: e2ee and the packages above it below e2ee/internal.
package olm
