// Package store keeps what the proxy must not forget: one file per table, SQLite or
// PostgreSQL underneath, the same statements for both.
//
// It promises:
//   - A [Changes] is written whole or not at all, and is on the disk when [DB.Save] returns
//     nil; reading and writing take one statement per batch, never one per device or event.
//   - Every pickle, secret, token and clear text is sealed under a key of its account
//     before it reaches the database, and opens only in the row and column it was sealed
//     for. Names, public keys and what the homeserver sees anyway are not sealed; columns
//     that decide how far a key, a user or a device is trusted are tied to the account's
//     key, so that who can write to the database can put back an older row, but not make
//     one.
//   - One process writes. A second one is refused, and one that was taken for dead writes
//     nothing when it comes back; see lease.go. On PostgreSQL several may share a database, as
//     a cluster: then one of them writes what belongs to an account, and any of them the rest;
//     see cluster.go.
//   - An outbound session moves forward only: a state older than the database's is refused
//     ([ErrStale]), so that two processes or a late writer cannot use an index twice.
//   - A database that was restored from a backup is recognised when it is opened, as far as
//     anything on the machine can show it, and its outbound state discarded; see restore.go
//     for how, and for the one case that cannot be seen.
//
// It must never print a sealed value, open a database with a wrong or missing master key,
// or create a new key where one is missing for existing data.
//
// Beside a SQLite database there are "-lock", by which one process owns it, and "-mark", by
// which a restore is noticed. A backup should leave out both.
//
// Importers: trustcache, e2ee, what lies below e2ee/internal, and cmd/e2ee-proxy. It imports
// internal packages only.
package store
