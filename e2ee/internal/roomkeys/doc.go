// Package roomkeys has a device's Megolm sessions. So far these are the ones that it makes
// for its own messages; what it keeps of others' is in e2ee.
//
// It promises:
//   - A session is used for another message only while nobody who was given its key has
//     lost the right to it, and no limit of its room is reached (requirements 9.1 to 9.6).
//   - The key goes to every device that may have it before a message is encrypted
//     (requirement 7.5), at the index of that message; who may not is told so once
//     (requirements 10.1 to 10.6). What was decided is decided again under the lock under
//     which something is encrypted.
//   - The ratchet is stored before a ciphertext is returned: no index is used for two
//     messages, and a repeated transaction gets the same ciphertext (requirement 19.11).
//
// It must never decide who gets a key, send anything with the device's lock held, or print a
// key or a message.
//
// Importer: e2ee.
package roomkeys
