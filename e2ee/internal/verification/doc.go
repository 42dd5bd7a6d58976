// Package verification has interactive verification: two devices find out, with a person at
// each, that they see the same keys (requirements §13; Client-Server API, "Key verification
// framework"), by emoji and numbers (m.sas.v1) or by a QR code (m.reciprocate.v1).
//
// It promises:
//   - A [Flow] is a state machine without input and output: events, a person's decisions and
//     the time go in, messages and what follows come out. What it returns is what was decided
//     as a whole; the flow is not changed before the caller takes it.
//   - What is verified of another user is their identity (cross-signing master key), never
//     single devices. Of the own user it is a device, or the identity for a device that does
//     not have it yet.
//   - Nothing counts as verified before the person here said that it matches (or the other
//     side scanned the code shown here, or its code was scanned here) and the other side has
//     proved its keys with the secret of this flow.
//   - The keys that are proved are those that were known when the flow began, and still are:
//     a change in between ends it.
//   - Events of anybody but the two sides of a flow change nothing.
//   - Memory is bounded, whoever sends requests.
//
// It must never ask the homeserver, confirm without a person but for the owner's own devices
// where the account is set so, or print a secret.
//
// Importer: e2ee.
package verification
