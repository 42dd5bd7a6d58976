// Package todevice takes in the to-device events of a sync: Olm messages are decrypted, what
// is in them is checked and handed to who keeps it, and the rest is left for the client.
//
// It promises:
//   - Events are handled in order of arrival, and one that cannot be read is never fatal:
//     anybody can send anything (requirement 5.3).
//   - All changes are in one step, which is stored with the position that acknowledges the
//     events to the homeserver, or not at all.
//   - Room keys, forwarded keys and secrets count only over Olm, in an envelope that names
//     its sender and us (requirement 8.2, attack A11).
//
// It must never make a request, or decide who gets a key.
//
// Importer: e2ee.
package todevice
