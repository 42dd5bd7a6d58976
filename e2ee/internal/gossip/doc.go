// Package gossip has what the devices of one user ask of each other: requests for room keys
// and for secrets, in both directions.
//
// It promises:
//   - A room key or a secret is given only over Olm, only to a device that the user's
//     verified identity has confirmed (trustcache.MayHoldSecrets), which is decided again
//     after a one-time key was claimed (requirements 1.14, 11.4, 15.4).
//   - Only such a device is asked, and only an answer to a request of ours is taken, from a
//     device that was asked (requirements 11.6, 15.2, 15.3, attacks A13, A14). The one secret
//     that is taken unasked, from such a device, is the backup's key (MSC4385): it is used
//     only if it belongs to the backup.
//   - A forwarded key proves nothing about who made it, and its row says who gave it
//     (requirement 16.5).
//   - What waits for an answer is stored with the position of the sync that brought it, and
//     what was asked for before anything is sent: a restart loses neither.
//
// It must never decide whether the own device is signed, compare a key with a backup, print
// a secret or a key, or remember requests without a bound.
//
// Importer: e2ee.
package gossip
