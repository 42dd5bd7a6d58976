// Package signkey checks many Ed25519 signatures of one key, such as those of the messages of
// a room key.
//
// It promises:
//   - What it accepts is what crypto/ed25519 accepts under the same key, bit for bit: the same
//     equation without a cofactor, computed in full, whose result is encoded and compared. A
//     [Table] changes how long that takes, and nothing else.
//   - A key that is no point, is not encoded as the specification does, or is of small order is
//     none: see [NewKey].
//   - Tables are bounded in number, and those that nobody uses are dropped.
//
// It handles what is public only, and takes more or less time by what that is: it must never
// see a private key.
//
// Anybody may import it; it imports filippo.io/edwards25519 and nothing of this module.
package signkey
