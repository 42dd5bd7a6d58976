// Package roomkeys has a device's Megolm sessions: those that it makes for its own messages
// ([Outbound]), and the keys that it reads with ([Inbound]). They know nothing of each other,
// but that the copy of an own key is stored among the latter.
//
// It promises:
//   - A session is used for another message only while nobody who was given its key has
//     lost the right to it, and no limit of its room is reached (requirements 9.1 to 9.6).
//   - The key goes to every device that may have it before a message is encrypted
//     (requirement 7.5), at the index of that message; who may not is told so once
//     (requirements 10.1 to 10.6). What was decided is decided again under the lock under
//     which something is encrypted.
//   - The ratchet is stored before a ciphertext is returned: no index is used for two
//     messages, and a repeated transaction gets the same ciphertext (requirement 19.11). Another
//     event under the same transaction ID is another transaction.
//   - An event is decrypted with the key that its room and session ID name, and no index is
//     good for two events of one owner (requirements 8.4, 8.6, attack A4): that is stored
//     before the clear text is returned.
//   - What is kept is replaced only by what the rules of package megolm allow, and a key that
//     was read before a better one was stored is not used after it.
//
// It must never decide who gets a key or what a client is shown, send anything with the
// device's lock held, reach another device's keys, or print a key or a message.
//
// Importer: e2ee.
package roomkeys
