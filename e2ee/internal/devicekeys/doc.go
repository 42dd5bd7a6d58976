// Package devicekeys has what is published of a device: when its keys are, how many one-time
// keys the homeserver has, and which fallback key.
//
// It promises:
//   - No keys are published before the client has had time to publish its own, or has asked
//     for what needs keys.
//   - Keys are stored before they are uploaded, so that a retry uploads the same (requirement
//     2.7).
//   - One-time keys are made as the homeserver counts them, and a fallback key when ours was
//     used (requirements 3.3 to 3.5), without end for no homeserver.
//   - After a database was put back, the keys that the homeserver still hands out are claimed,
//     and others take their place.
//
// It must never upload device keys over others, publish a key whose private half is not
// stored, or forget a private half that somebody may still be given.
//
// Importer: e2ee.
package devicekeys
