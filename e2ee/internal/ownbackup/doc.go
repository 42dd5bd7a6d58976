// Package ownbackup has the account's key backup as one device of the proxy reads and writes
// it: it makes the backup or finds the key of the existing one, uploads room keys, fetches
// single ones and restores the whole.
//
// It promises:
//   - Nothing is written to a backup that is not known to be the account's own, and that is
//     decided again before each upload (requirements 16.1, 16.6, attack A14).
//   - An existing backup is never replaced, one that was deleted is made again only when a
//     person asks for it, and none is made where the user wants none (requirement 16.7).
//   - What was uploaded is recorded, and a restore that is wanted is stored: a restart
//     continues both.
//   - An entry that attests a contested owner is taken out before the key is uploaded again
//     (requirement 16.5).
//   - Keys that wait to be fetched are bounded, and memory does not grow with the size of a
//     backup.
//
// It must never decide who owns a room key, take a key that does not belong to the newest
// backup, or print a key.
//
// Importer: e2ee.
package ownbackup
