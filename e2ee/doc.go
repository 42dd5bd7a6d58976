// Package e2ee is the end-to-end encryption engine: one [Device] for each
// device whose keys the proxy holds.
//
// It promises:
//   - A room key or a secret goes only to devices for which trustcache decided
//     "share" at the moment of sending; recipients are recomputed for every send.
//   - The same (session, index) is never used for two plaintexts: the ratchet is
//     stored before a ciphertext leaves.
//   - The effect of a to-device message is stored before the position that
//     acknowledges it to the homeserver moves.
//   - Who owns a room key is recorded when it arrives and is never taken from the
//     event that is being decrypted.
//   - That a room is encrypted is known for every device and token of the database once
//     one of them has learned it, and for ever.
//   - In a cluster, nothing of an account is opened or written before the account is this
//     process's, and nothing that was read in an earlier time of its is believed (package
//     ownership).
//   - The keys of a device are destroyed only when the homeserver confirms, asked with the
//     device's own token, that its session has ended.
//
// What the parts of a device share is in internal/core. Code without state of its own is
// below internal, too: locks, calls to the homeserver (wire), the cryptography of Olm (olm),
// stored room keys (megolm), the keys of an identity (identity), and the formats of backups
// (keybackup) and of exported files (keyfile).
//
// A [Device] is composed of parts, each of which owns its fields and lies in a package of
// its own below internal: what is published of its keys (devicekeys), Olm sessions
// (channel), rooms and their members (rooms), the own identity (ownidentity), room keys
// (roomkeys), the backup (ownbackup), requests between devices (gossip), events that wait
// to be shown (late), what comes as to-device events (todevice), room events and what a
// client is shown of them (roomevents), how current its view is (live), when it syncs by
// itself and is maintained (schedule), which warnings the client was shown (notices), what
// the policy did (rollout), how it stands (status) and which link of the chain is broken (checkup). A part knows those below it, and takes
// the rest through a host interface of its own, which is what it needs of the others (host in
// device.go).
//
// This package is where they meet: the engine and its devices, a send, a share, what a
// client is shown, both kinds of sync, and the control API's calls.
//
// Turns and locks are taken in the order of their ranks (internal/locks): turns first,
// which alone may be held while the homeserver is asked, then the engine's lock, then a
// device's, then those of the account and of small leaf structures. Every change of a
// device is a step (internal/core).
//
// It must never hold a lock over the network, import the root package
// mautrix/crypto, print a key, or upload device keys over keys that are not its own.
//
// Importers: interceptors and cmd/e2ee-proxy. It imports trustcache, store and what lies
// below e2ee/internal.
package e2ee
