// Package channel is a device's end of its Olm channels to other devices: its private keys,
// the sessions with them, and the messages that wait to be sent.
//
// It promises:
//   - A message is decrypted once. What it changes is staged, and nothing changes if it
//     cannot be decrypted (requirement 6.13).
//   - One-time keys are claimed in batches, with no lock held, and count only if their device
//     has signed them (requirement 3.10).
//   - What is sealed waits in the outbox, stored with the sessions that sealed it, and leaves
//     in order, also after a crash, under the transaction IDs that it was given (requirement
//     5.5).
//   - What is kept of sessions in memory is what is stored. A change is refused if somebody else
//     has changed them since they were read.
//   - A device whose messages cannot be read is noted until it has a new session, and gets at
//     most one in an hour (requirement 6.12).
//
// It must never decide who gets a room key or a secret, publish keys, give a session to a
// device that may have no room keys, or print a key.
//
// Importers: e2ee and the packages above it below e2ee/internal.
package channel
