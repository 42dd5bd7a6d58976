// Package keybackup is the format of a key backup: its version, the entry of each room key,
// and the homeserver's responses. It has no state.
//
// It promises:
//   - A backup counts as the account's own only if its public key belongs to a private key
//     that is here, or if the account's verified identity or a device confirmed by it has
//     signed it (requirement 16.1, attack A14).
//   - The fields of an entry by which the homeserver merges are true (requirement 16.5).
//   - An entry with a wrong MAC or none attests no owner of a key (requirement 16.9,
//     MSC4048).
//   - What is read is bounded: one entry at a time is in memory.
//
// It must never ask the homeserver or the database, decide what goes into a backup, or print
// a key.
//
// Importers: e2ee, ownidentity and ownbackup.
package keybackup
