// Package sharedhistory gives the keys of a room's history to somebody who is invited, and
// takes those that an inviter gives (Client-Server API, Sharing keys between users; MSC4268).
//
// It promises:
//   - A bundle has only keys that their makers allow to be passed on, and is made only while
//     the room's history is visible to later members (requirement 17.5).
//   - It goes to devices that their owner has signed, whose identity has not changed
//     unacknowledged, from a device that its own owner has signed, whatever the policy says;
//     that is decided again right before it is encrypted. The room gets another key afterwards.
//   - A bundle that comes is only noted. It is downloaded when the own user has accepted an
//     invitation of its sender's within a day (requirement 17.7), up to a bound in size, and
//     counts only if its hash is right and its sender's device is signed.
//   - Its keys are those of its room only, prove nothing of who made them, take the place of no
//     better key, and say who shared them.
//   - What waits is stored with the position of the sync that brought it; every part of taking
//     a bundle can be repeated.
//
// It must never hold up or fail an invitation, hold the device's lock over the network, or
// print a key or where a bundle lies.
//
// Importers: e2ee and todevice.
package sharedhistory
