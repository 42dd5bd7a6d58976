// Package takeover takes the keys of a device over from a program that kept them in pickles
// of libolm: the device's own, its Olm sessions, and its room keys.
//
// It promises:
//   - A device is taken whole or not at all: until its own keys, its sessions with others and
//     its access token are stored together, it is of no use here, and taking it again goes on.
//   - A device that is here already is left as it is: its ratchets have moved since.
//   - A room key is stored under its own name, as one that was imported: it proves nothing of
//     its sender.
//   - What cannot be read is counted, and stops nothing else.
//
// It must never take anything into a database that an engine works with, talk to the
// homeserver, or put a key into an error. That the other program is not run again is up to
// whoever asked for it: two programs with the same ratchets use the same keys twice.
//
// Importer: e2ee.
package takeover
