// Package ownidentity has the account's own identity (cross-signing) as one device of the
// proxy sees it: it makes, recovers and resets it, signs the device with it, and keeps
// secret storage complete.
//
// It promises:
//   - An identity is made only where the homeserver shows none, and replaced only by a reset
//     that a person asked for. Until its upload the old one is complete, and after a crash
//     anywhere a later step completes it (requirement 12.13).
//   - Private keys are used only if they belong to the published identity (requirements
//     12.12, 14.7), and stored before anything is made of them.
//   - Whether the device is signed is read from the homeserver, never assumed. The zero
//     [State] may not send.
//   - Nothing is encrypted with a key of secret storage that its description cannot confirm,
//     and secrets of others are not overwritten without a person.
//   - A password is in memory only, a minute at most, and is overwritten.
//
// It must never decide whether a backup is used, print a key, a secret or a password, or
// sign device keys that are not the device's own.
//
// Importers: e2ee and ownbackup.
package ownidentity
