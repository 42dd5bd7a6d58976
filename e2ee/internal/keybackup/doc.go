// Package keybackup is the format of a key backup: its version, the entry of each room key,
// and what the homeserver sends of it. It has no state.
//
// It promises:
//   - A backup is the account's own only if its public key belongs to a private one that is
//     here, or if the account's verified identity or a device that it confirmed signed it
//     (requirement 16.1, attack A14).
//   - What a key's entry says for the homeserver to merge by is true (requirement 16.5).
//   - An entry whose MAC is wrong, or that has none, attests nobody as a key's owner
//     (requirement 16.9, MSC4048).
//   - What is read is bounded: one entry at a time is in memory.
//
// It must never ask the homeserver or the database, decide what goes into a backup, or print
// a key.
//
// Importer: e2ee.
package keybackup
