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
//   - The keys of a device are destroyed only when the homeserver confirms, asked with the
//     device's own token, that its session has ended.
//
// What the parts of a device share is in internal/core. Code without state of its own is
// below internal, too: locks, calls to the homeserver (wire),
// the cryptography of Olm (olm), stored room keys (megolm), the keys of an identity
// (identity), and the formats of backups (keybackup) and of exported files (keyfile).
//
// A [Device] is composed of parts, each of which owns its fields: what is published of its
// keys (internal/devicekeys), the own identity (internal/ownidentity), when the device works
// (schedule), Olm sessions (internal/channel), room keys (internal/roomkeys), events that
// wait for one (internal/late), the backup (internal/ownbackup), rooms and their members
// (internal/rooms), requests between devices (internal/gossip), which warnings the client
// was shown (internal/notices), and what else waits for it (clientState). A part does not
// change another; its host interface lists what it needs of the others.
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
